"""The synchronous client is generated from the asynchronous one, and lint notices where it is stale."""

import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.client import AsyncEarshotClient, EarshotClient

ROOT = Path(__file__).parents[3]
FOLDER = Path("orchestrator/client")
PAIRS = {"asynchronous.py": "synchronous.py", "async_connection.py": "sync_connection.py"}
EDITS = {
    "asynchronous.py": ("limit: int = 50", "limit: int = 51"),
    "async_connection.py": ("timeout: float = 30", "timeout: float = 31"),
}


def generate(*arguments, root=ROOT):
    command = [sys.executable, "orchestrator/client/generate.py", "--root", root, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def copied(folder):
    (folder / FOLDER).mkdir(parents=True)
    for pair in PAIRS.items():
        for name in pair:
            shutil.copy(ROOT / FOLDER / name, folder / FOLDER / name)
    return folder


def test_the_synchronous_client_is_fresh():
    checked = generate("--check")
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("source", PAIRS)
def test_an_edit_of_either_client_makes_the_check_fail(source, tmp_path):
    root, edit = copied(tmp_path), EDITS[source]
    for name in (source, PAIRS[source]):
        file = root / FOLDER / name
        before = file.read_text()
        file.write_text(before.replace(*edit))
        assert file.read_text() != before
        stale = generate("--check", root=root)
        assert (stale.returncode, "make client" in stale.stderr, PAIRS[source] in stale.stderr) == (1, True, True)
        file.write_text(before)
    file = root / FOLDER / source
    file.write_text(file.read_text().replace(*edit))
    assert generate(root=root).returncode == 0
    assert edit[1] in (root / FOLDER / PAIRS[source]).read_text()


def test_lint_and_pre_commit_run_the_check():
    command = "orchestrator/client/generate.py --check"
    assert re.search(rf"(?m)^lint:.*\n(\t.*\n)*\t.*{command}$", (ROOT / "Makefile").read_text())
    assert command in (ROOT / ".pre-commit-config.yaml").read_text()


def test_both_clients_have_the_same_methods_and_parameters():
    def parameters(client):
        methods = inspect.getmembers(client, inspect.isfunction)
        return {
            name: [(p.name, p.kind, p.default) for p in inspect.signature(method).parameters.values()]
            for name, method in methods
            if name[0] != "_"
        }

    assert parameters(EarshotClient) == parameters(AsyncEarshotClient)
