"""Exit codes: each kind of error has one, and only one module chooses them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from orchestrator import cli
from orchestrator.cli.main import app
from orchestrator.cli.operate import serve as serve_module
from orchestrator.cli.outcome import UnsuccessfulError, exit_codes
from orchestrator.client import ApiError, RefusedError, UnreachableError
from orchestrator.job.spec_file import SpecError
from orchestrator.service.supervision.limits import NeverFitsError
from orchestrator.storage.location import StorageError

MODULES = sorted(Path(cli.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (SpecError("job.yaml: no such\n file"), 2, "job.yaml: no such file"),
        (SpecError("\x1b]0;title\x07.yaml: no such file"), 2, "\\x1b]0;title\\x07.yaml: no such file"),
        (SpecError("a" * 10**6 + " end"), 2, "a" * 664 + " … " + "a" * 329 + " end"),
        (OSError(36, "File name too long", "nnn"), 2, "'nnn': the name is too long for a file; correct the path"),
        (NeverFitsError("8 GPUs"), 2, "8 GPUs"),
        (RefusedError(404, "there is no job 'x'"), 2, "there is no job 'x'"),
        (ApiError(503, "try again"), 1, "try again"),
        (UnreachableError("no service answers"), 1, "no service answers"),
        (StorageError("'s3://b' cannot be listed"), 1, "'s3://b' cannot be listed"),
        (UnsuccessfulError("nothing was written"), 1, "nothing was written"),
        (KeyError("x"), 1, "KeyError: 'x' (EARSHOT_TRACEBACK=1 shows where)"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyboardInterrupt("the job continues"), 130, "interrupted; the job continues"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_an_error_is_one_line_and_an_exit_code(error, code, line, capsys, monkeypatch):
    monkeypatch.delenv("EARSHOT_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as ended, exit_codes():
        raise error
    assert ended.value.code == code
    assert capsys.readouterr().err == f"earshot: {line}\n"


def test_a_traceback_on_request_of_what_the_user_cannot_correct(monkeypatch):
    monkeypatch.setenv("EARSHOT_TRACEBACK", "1")
    with pytest.raises(StorageError), exit_codes():
        raise StorageError("away")
    with pytest.raises(SystemExit), exit_codes():
        raise SpecError("job.yaml: no such file")


@pytest.mark.parametrize("error", [typer.Exit(3), typer.BadParameter("no number"), typer.Abort()])
def test_typers_own_are_left_to_typer(error):
    with pytest.raises(type(error)), exit_codes():
        raise error


def test_a_command_is_mapped_wherever_it_raises(monkeypatch):
    def fail(_: object) -> None:
        raise UnreachableError("no service answers")

    monkeypatch.setattr(serve_module, "run_service", fail)
    done = CliRunner().invoke(app, ["serve"])
    assert (done.exit_code, done.stderr) == (1, "earshot: no service answers\n")


def test_there_is_one_mapping():
    """Only outcome.py ends the process for an error, and no other module names the errors' common roots."""
    for path in MODULES:
        if path.name == "outcome.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        handlers = [node.type for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.type]
        caught = {ast.unparse(kind) for kind in handlers}
        assert not {"InputError", "EarshotError", "KeyboardInterrupt", "BaseException"} & caught, path
        exits = [
            ast.unparse(node)
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("sys.exit", "exit", "SystemExit", "typer.Exit")
        ]
        # Commands whose printed result is itself the failure.
        assert set(exits) <= {"typer.Exit(BAD_INPUT)", "typer.Exit(FAILED)"}, path


def test_a_closed_pipe_is_not_an_error():
    program = (
        "import json, sys\n"
        "from orchestrator.cli.outcome import exit_codes\n"
        "with exit_codes():\n"
        "    for i in range(3000):\n"
        "        print(json.dumps({'id': i, 'text': 'x' * 1000}))\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_no_command_imports_inside_a_function():
    for path in MODULES:
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                inside = [node for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom)]
                assert not inside, f"{path}: {function.name}"
