"""The synchronous client is generated from the asynchronous one, and lint notices where it is stale."""

import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

from orchestrator.client import AsyncEarshotClient, EarshotClient

ROOT = Path(__file__).parents[3]
SOURCE, TARGET = (Path("orchestrator/client") / name for name in ("asynchronous.py", "synchronous.py"))


def generate(*arguments, root=ROOT):
    command = [sys.executable, "orchestrator/client/generate.py", "--root", root, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def copied(folder):
    for name in (SOURCE, TARGET):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def test_the_synchronous_client_is_fresh():
    checked = generate("--check")
    assert checked.returncode == 0, checked.stderr


def test_an_edit_of_either_client_makes_the_check_fail(tmp_path):
    root = copied(tmp_path)
    assert generate("--check", root=root).returncode == 0
    for name in (SOURCE, TARGET):
        file = root / name
        before = file.read_text()
        file.write_text(before.replace("limit: int = 50", "limit: int = 51"))
        assert file.read_text() != before
        stale = generate("--check", root=root)
        assert (stale.returncode, "make client" in stale.stderr) == (1, True)
        file.write_text(before)
    file = root / SOURCE
    file.write_text(file.read_text().replace("limit: int = 50", "limit: int = 51"))
    assert generate(root=root).returncode == 0
    assert "limit: int = 51" in (root / TARGET).read_text()
    assert generate("--check", root=root).returncode == 0


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
