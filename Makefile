# Every target sets up .venv by itself: Python 3.11 or 3.12 and a C++ compiler are all it needs.
PYTHON ?= python3.11
LOCK ?= requirements/cpu.lock
TORCH := $(shell sed -n 's/^torch==//p' $(LOCK))
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
BIN := .venv/bin
READY := .venv/.ready
COMPILE := $(BIN)/uv pip compile --python-version 3.11 --no-emit-find-links --no-emit-index-url --no-header --no-annotate --quiet
LOCKED := --extra dev --extra huggingface --extra remote --extra s3 --extra tracing --extra trackers --override requirements/overrides-trackers.txt

.PHONY: help demo serve test slow chaos lint format client bench lock clean same-lock
.DEFAULT_GOAL := help

help: ## List the targets.
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

# Sets up .venv and writes the path of its lock file into READY; empty: requirements/cpu.lock.
$(READY): $(LOCK) pyproject.toml | same-lock
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
	@echo $(LOCK) > $(READY)

same-lock:
	@lock=$$(cat $(READY) 2>/dev/null || echo $(LOCK)); lock=$${lock:-requirements/cpu.lock}; test "$$lock" = "$(LOCK)" \
		|| { echo ".venv was set up from $$lock; run \`make clean\` first" >&2; exit 2; }

demo: $(READY) ## Train a tiny model on this machine, in six to twenty minutes.
	$(BIN)/earshot demo

serve: $(READY) ## Run the service: http://127.0.0.1:8420.
	$(BIN)/earshot serve

test: $(READY) lint ## Run the linters and all fast tests.
	@# Two at a time: most tests wait for engines and ranks to start. What is started takes one thread each.
	$(BIN)/pytest -n 2 -m "not slow"

slow: $(READY) ## Run the tests that take minutes.
	$(BIN)/pytest -n 2 -m slow

chaos: $(READY) ## Kill workers, nodes, drivers, Ray and the service at random, five minutes for each test.
	EARSHOT_CHAOS_SECONDS=$${EARSHOT_CHAOS_SECONDS:-300} $(BIN)/pytest -s tests/chaos

lint: $(READY) ## Check format, lint, types, import contracts and generated code.
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

bench: $(READY) ## Run the benchmarks; results in benchmarks/results.
	$(BIN)/python -m benchmarks

lock: $(READY) ## Resolve requirements/ again.
	$(COMPILE) pyproject.toml --extra cpu $(LOCKED) --override requirements/overrides.txt -o requirements/cpu.lock
	$(COMPILE) pyproject.toml --extra gpu $(LOCKED) --python-platform x86_64-manylinux_2_28 -o requirements/gpu.lock
	$(COMPILE) benchmarks/peers/trl.in --constraint requirements/cpu.lock -o benchmarks/peers/trl.lock

clean: ## Remove the environment and the caches of the tools.
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
