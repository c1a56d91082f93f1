"""A wrong command line is answered with one line on stderr and exit code 2, whatever is wrong with it."""

import pytest
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from orchestrator.cli.lazy import LazyCommand
from orchestrator.cli.main import COMMANDS, app


def leaves():
    """The words of every command that does something."""
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    for entry in COMMANDS:
        lazy = group.commands[entry.name]
        assert isinstance(lazy, LazyCommand)
        command = lazy.load()
        for sub in getattr(command, "commands", {None: command}):
            yield [entry.name] if sub is None else [entry.name, sub]


LEAVES = list(leaves())


def line_of(words):
    done = CliRunner().invoke(app, words, prog_name="earshot")
    assert done.exit_code == 2, (words, done.stdout, done.stderr, done.exception)
    assert done.stdout == ""
    assert done.stderr.endswith("\n")
    line = done.stderr[:-1]
    assert line.isprintable(), line
    assert len(line) < 1040
    return line


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_every_command(words):
    program = " ".join(["earshot", *words])
    arguments = ["x"] * 9
    assert line_of([*words, "--no-such-option"]).startswith(f"{program}: No such option: --no-such-option")
    if words not in (["delete"],):
        assert line_of([*words, *(arguments if words[0] not in ("scale", "priority") else ["x", "1", "x"])])
    assert line_of([*words, "--jsno"]).startswith(f"{program}: No such option: --jsno")
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    command = group.commands[words[0]].load()
    command = command.commands[words[1]] if len(words) > 1 else command
    for option in command.params:
        if option.param_type_name == "option" and not option.is_flag:
            line = line_of([*words, option.opts[0]])
            assert line == f"{program}: Option '{option.opts[0]}' requires an argument; see {program} --help"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["data"], "earshot data: name a command: check, filter; see earshot data --help"),
        (["token"], "earshot token: name a command: create, list, revoke; see earshot token --help"),
        (["cluster"], "earshot cluster: name a command: up, join, down; see earshot cluster --help"),
        (["token", "revok"], "earshot token: No such command 'revok'. Did you mean 'revoke'? See earshot token --help"),
        (["show"], "earshot show: Missing argument 'JOB'; see earshot show --help"),
        (["show", "a", "b"], "earshot show: Got unexpected extra argument(s) (b); see earshot show --help"),
        (
            ["jobs", "--ownr", "a"],
            "earshot jobs: No such option: --ownr (Possible options: --json, --owner); see earshot",
        ),
        (
            ["token", "create", "a", "--role", "king"],
            "earshot token create: Invalid value for '--role': 'king' is not one of ",
        ),
        (["delete"], "earshot delete: Missing argument 'JOB...'; see earshot delete --help"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_line(words, line):
    assert line_of(words).startswith(line)
