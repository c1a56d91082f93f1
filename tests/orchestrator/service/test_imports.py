"""The base install is the service, the client and the command: none of them needs torch, vLLM or DeepSpeed."""

import subprocess
import sys

import pytest

_ABSENT = ("torch", "vllm", "deepspeed", "transformers", "peft", "wandb", "mlflow", "opentelemetry")


@pytest.mark.parametrize(
    "module",
    ["orchestrator.client", "orchestrator.cli.main", "orchestrator.service.server", "orchestrator.service.api.app"],
)
def test_it_is_imported_without_what_learns(module):
    code = f"import sys; sys.modules.update(dict.fromkeys({_ABSENT!r})); import {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
