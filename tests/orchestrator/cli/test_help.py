"""The help of every command: no name of an option is cut, on a narrow terminal and in a pipe."""

import pytest
import typer.main
from typer.testing import CliRunner

from orchestrator.cli.main import app


def commands(group, path=()):
    """Yield the words and the command of each command."""
    for name, entry in group.commands.items():
        command = entry.load() if hasattr(entry, "load") else entry
        if getattr(command, "commands", None):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


ALL = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("columns", ["80", "40"])
def test_names_are_in_full(columns):
    assert len(ALL) > 25
    for words, command in ALL.items():
        done = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": columns}, prog_name="earshot")
        assert done.exit_code == 0, words
        assert "…" not in done.stdout.replace("://…", ""), words
        for parameter in command.params:
            for name in (*parameter.opts, *parameter.secondary_opts):
                assert name in done.stdout or not name.startswith("-"), (words, name)
