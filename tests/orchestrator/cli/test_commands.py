"""The table of commands: it matches the commands, and using it imports no more than it needs."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from orchestrator.cli.lazy import LazyCommand
from orchestrator.cli.main import COMMANDS, DATA, OPERATE, RUN, SERVICE, app

EARSHOT = Path(sys.executable).parent / "earshot"
HEAVY = {"torch", "transformers", "vllm", "deepspeed"}
UNNEEDED_FOR_HELP = HEAVY | {"ray", "httpx", "pydantic", "sqlalchemy", "fastapi", "numpy"}
REPORT = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); "


def lazy_commands() -> dict[str, LazyCommand]:
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    return {name: command for name, command in group.commands.items() if isinstance(command, LazyCommand)}


def paths() -> Iterator[list[str]]:
    """The words of every command, subcommands included."""
    yield []
    for name, lazy in lazy_commands().items():
        command = lazy.load()
        yield [name]
        if isinstance(command, TyperGroup):
            yield from ([name, sub] for sub in command.commands)


def loaded_by(*arguments: str) -> set[str]:
    """The modules that a command has imported when it ends."""
    code = f"{REPORT} from orchestrator.cli.main import main; sys.argv = ['earshot', *{arguments!r}]; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[:2000]
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry.name)
def test_the_table_matches_the_command(entry):
    command = lazy_commands()[entry.name].load()
    assert isinstance(command, TyperCommand | TyperGroup)
    assert (command.help or "").partition("\n\n")[0].replace("\n", " ") == entry.help
    if isinstance(command, TyperCommand):
        assert entry.target.endswith(f":{command.callback.__name__}")


@pytest.mark.parametrize("path", paths(), ids=" ".join)
def test_every_command_has_help(path):
    done = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200"}, prog_name="earshot")
    assert done.exit_code == 0
    assert f"Usage: {' '.join(['earshot', *path])} " in done.stdout
    for line in done.stdout.splitlines():
        if line.startswith("│ --"):
            assert "  " in line.strip("│ ").strip(), f"{line} has no description"


def test_help_lists_every_command_in_its_panel():
    text = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).stdout
    titles = [text.index(f"─ {panel} ─") for panel in (RUN, DATA, SERVICE, OPERATE)]
    assert titles == sorted(titles)
    for entry in COMMANDS:
        assert f"│ {entry.name} " in text
        assert entry.help in text


def test_help_imports_no_command():
    loaded = loaded_by("--help")
    assert not UNNEEDED_FOR_HELP & loaded
    light = {"orchestrator.run", "orchestrator.run.exit_codes", "orchestrator.schemas", "orchestrator.schemas.digits"}
    assert not {module for module in loaded - light if module.startswith("orchestrator.") and "cli" not in module}


def test_a_plan_is_made_without_torch(tmp_path):
    job = tmp_path / "job.yaml"
    spec = {
        "model": {"path": "builtin:tiny-qwen2-audio", "max_context": 512},
        "data": {"train": "builtin:synthetic", "evaluation": "builtin:synthetic"},
    }
    job.write_text(yaml.safe_dump(spec))
    assert not HEAVY & loaded_by("run", str(job), "--dry-run", "--json")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["re"], ["reproduce", "resume", "retry", "restore"]),
        (["data", ""], ["check", "filter"]),
        (["run", "--re"], ["--resume"]),
        (["jobs", "--state", "canc"], ["cancelled"]),
    ],
)
def test_shell_completion(words, found):
    line = " ".join(["earshot", *words])
    environment = {"_EARSHOT_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words))}
    done = subprocess.run(
        [EARSHOT], capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment}
    )
    assert done.stdout.split() == found


def test_version():
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, "earshot 0.1.0\n")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["sumbit"], "earshot: No such command 'sumbit'. Did you mean 'submit'? See earshot --help"),
        (["--bogus"], "earshot: No such option: --bogus; see earshot --help"),
        (["run", "--bogus"], "earshot run: No such option: --bogus; see earshot run --help"),
        (["data", "bogus"], "earshot data: No such command 'bogus'; see earshot data --help"),
        (["score", "--data", "q"], "earshot score: Missing argument 'PREDICTIONS'; see earshot score --help"),
        (
            ["reproduce", "--seeds", "0"],
            "earshot reproduce: Invalid value for '--seeds': Input should be greater than or equal to 1; see earshot "
            "reproduce --help",
        ),
        (["serve", "--root", "/nowhere"], "earshot: --root: '/nowhere' is not a folder; correct the path"),
        (
            ["token", "create", "ada", "--days", "0"],
            "earshot: --days: a token of 0 days is expired; give more, or leave it out for one that never expires",
        ),
        (
            ["run", "--resume", "--run-dir", "nowhere"],
            "earshot: 'nowhere': not a run directory (it has no job.yaml); correct the path",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_line_is_answered_with_one_line(words, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, words, prog_name="earshot")
    assert (done.exit_code, done.stdout, done.stderr) == (2, "", f"{line}\n")
    assert list(tmp_path.iterdir()) == []


def test_without_arguments_the_program_prints_its_help():
    assert "Usage: earshot" in CliRunner().invoke(app, [], prog_name="earshot").output
