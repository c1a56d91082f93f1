# Every target sets up .venv by itself: Python 3.11 or 3.12 and a C++ compiler are all it needs.
PYTHON ?= python3.11
LOCK ?= requirements/cpu.lock
TORCH := $(shell sed -n 's/^torch==//p' $(LOCK))
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
BIN := .venv/bin
READY := .venv/.ready
COMPILE := $(BIN)/uv pip compile --python-version 3.11 --no-emit-find-links --no-emit-index-url --no-header --no-annotate --quiet
LOCKED := --extra dev --extra huggingface --extra remote --extra s3 --extra tracing --extra trackers --override requirements/overrides-trackers.txt

.PHONY: help demo serve test slow chaos lint format client bench lock clean
.DEFAULT_GOAL := help

help: ## List the targets.
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(READY): $(LOCK) pyproject.toml
	@echo "Setting up .venv from $(LOCK): about 4 GB, a few minutes."
	@command -v $(PYTHON) >/dev/null || { echo "earshot needs $(PYTHON); install it, or name another with PYTHON=" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(shell grep '^uv==' $(LOCK))
	@# CPU torch is not on PyPI: a local wheel or mirror that pip is set up with comes first, then PyTorch's own index.
	@$(BIN)/python -c "import importlib.metadata as m; assert m.version('torch') == '$(TORCH)'" 2>/dev/null \
		|| $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --retries 1 "torch==$(TORCH)" 2>/dev/null \
		|| $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --index-url $(TORCH_CPU_INDEX) "torch==$(TORCH)"
	@# The lock leaves out what must not be installed beside a CPU torch (requirements/overrides.txt): hence --no-deps.
	@# Compiled once, here: every engine and rank is a process of its own and would compile vLLM and torch for itself where
	@# Python is told to write no bytecode.
	grep -v '^torch==' $(LOCK) | $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps -r /dev/stdin
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $(READY)

demo: $(READY) ## A tiny model learns to listen, on this machine, in six to twenty minutes.
	$(BIN)/earshot demo

serve: $(READY) ## The service on this machine: http://127.0.0.1:8420.
	$(BIN)/earshot serve

test: $(READY) lint ## The linters, and every test on the real parts.
	@# Two at a time: most tests wait for engines and ranks to start. What is started takes one thread each.
	$(BIN)/pytest -n 2 -m "not slow"

slow: $(READY) ## The tests that take minutes: whole jobs, and killing what they run on.
	$(BIN)/pytest -n 2 -m slow

chaos: $(READY) ## Killing and stopping whatever belongs to jobs on several nodes, and the service.
	EARSHOT_CHAOS_SECONDS=300 $(BIN)/pytest -s tests/chaos

lint: $(READY) ## Format, lint, types, the arrows between packages, and generated code.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python orchestrator/client/generate.py --check

format: $(READY) ## Format the code.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

client: $(READY) ## Generate the synchronous client from the asynchronous one.
	$(BIN)/python orchestrator/client/generate.py

bench: $(READY) ## The benchmarks; results in benchmarks/results.
	$(BIN)/python -m benchmarks

lock: $(READY) ## Resolve the pins again.
	$(COMPILE) pyproject.toml --extra cpu $(LOCKED) --override requirements/overrides.txt -o requirements/cpu.lock
	$(COMPILE) pyproject.toml --extra gpu $(LOCKED) --python-platform x86_64-manylinux_2_28 -o requirements/gpu.lock
	$(COMPILE) benchmarks/peers/trl.in --constraint requirements/cpu.lock -o benchmarks/peers/trl.lock

clean: ## Remove the environment and the caches of the tools.
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
