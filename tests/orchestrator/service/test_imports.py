"""The base install has the service, the client and the command line; none of them needs torch, vLLM or DeepSpeed."""

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import cli

_ABSENT = ("torch", "vllm", "deepspeed", "transformers", "peft", "wandb", "mlflow", "opentelemetry")

# The command line imports a command only when it is invoked, so all of its modules are named.
_COMMANDS = [
    ".".join(("orchestrator", "cli", *path.relative_to(Path(cli.__file__).parent).with_suffix("").parts))
    for path in sorted(Path(cli.__file__).parent.rglob("*.py"))
    if path.name != "__init__.py"
]


@pytest.mark.parametrize(
    "modules",
    [["orchestrator.client"], ["orchestrator.service.server"], ["orchestrator.service.api.app"], _COMMANDS],
    ids=["client", "server", "app", "commands"],
)
def test_it_is_imported_without_what_learns(modules):
    code = f"import sys; sys.modules.update(dict.fromkeys({_ABSENT!r})); import {', '.join(modules)}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
