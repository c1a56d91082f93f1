"""Write docs/reference/commands.md from the command line itself: `python docs/generate_commands.py`."""

import enum
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.main import get_command

from orchestrator.cli.lazy import LazyCommand
from orchestrator.cli.main import COMMANDS, app

TYPES = {"str": "text", "int": "whole number", "float": "number", "path": "path"}
PAGE = Path(__file__).parent / "reference" / "commands.md"

INTRODUCTION = """\
# Commands

<!-- Written by docs/generate_commands.py from the commands in orchestrator/cli. Change the docstrings and help texts
there, then run `.venv/bin/python docs/generate_commands.py`. -->

`earshot --help` lists the commands, `earshot COMMAND --help` describes one, `earshot --version` prints the version, and
`earshot --install-completion` installs shell completion.

With `--json` a command prints one JSON document to stdout and nothing else there; progress goes to stderr.

Tables adapt to the width of the terminal, or to `COLUMNS` if it is set. Ids and states are always shown in full. In a
narrow terminal texts wrap first, then figures are left out one after the other, and a line below the table names them.
In a pipe or a file nothing is left out: each row is one line, without colours.

A command that finds no service says so within two seconds. Once the service has answered, a request is repeated for ten
seconds if the service is restarted meanwhile, and no request has a second effect. `earshot submit --wait`,
`earshot watch` and `earshot logs --follow` wait for as long as the service is away, and say so on stderr.

| exit code | |
|---|---|
| 0 | success |
| 1 | failure, with one line on stderr; `EARSHOT_TRACEBACK=1` shows the traceback as well |
| 2 | input that you can correct, with one line on stderr that names it |
| 130 | interrupted with Ctrl-C or SIGTERM |
"""


def page() -> str:
    """Return the page as Markdown."""
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    parts = [INTRODUCTION]
    for panel, entries in groupby(COMMANDS, lambda entry: entry.panel):
        parts.append(f"\n## {panel}\n")
        for entry in entries:
            lazy = group.commands[entry.name]
            assert isinstance(lazy, LazyCommand)
            parts += [_command(name, command) for name, command in _leaves(entry.name, lazy.load())]
    return "".join(parts)


def _leaves(name: str, command: TyperCommand | TyperGroup) -> Iterator[tuple[str, TyperCommand]]:
    """Yield the commands that do something, with their full names."""
    if isinstance(command, TyperCommand):
        yield name, command
        return
    for sub in command.commands.values():
        assert isinstance(sub, TyperCommand)
        yield from _leaves(f"{name} {sub.name}", sub)


def _command(name: str, command: TyperCommand) -> str:
    arguments = [param for param in command.params if isinstance(param, TyperArgument)]
    options = [param for param in command.params if isinstance(param, TyperOption) and not param.hidden]
    words = [_metavar(argument) if argument.required else f"[{_metavar(argument)}]" for argument in arguments]
    parts = [f"\n### earshot {name}\n\n```sh\n{' '.join(['earshot', name, *words, '[OPTIONS]'])}\n```\n"]
    parts += [f"\n{_cell(paragraph)}\n" for paragraph in (command.help or "").split("\n\n")]
    if arguments or options:
        parts.append("\n| argument or option | type | default | |\n|---|---|---|---|\n")
        values = _signature(command.callback)
        for argument in arguments:
            parts.append(_row(f"`{_metavar(argument)}`", argument, values))
        for option in options:
            names = ", ".join(f"`{text}`" for text in (*option.opts, *option.secondary_opts))
            parts.append(_row(names, option, values))
    return "".join(parts)


def _signature(callback: Callable[..., Any] | None) -> Mapping[str, inspect.Parameter]:
    assert callback is not None
    return inspect.signature(callback).parameters


def _row(names: str, param: TyperArgument | TyperOption, values: Mapping[str, inspect.Parameter]) -> str:
    if not param.help:
        raise ValueError(f"{names} has no help")
    default = "required" if param.required else _default(values[str(param.name)].default)
    variable = f" Environment variable: `{param.envvar}`." if param.envvar else ""
    return f"| {names} | {_type(param)} | {default} | {_cell(param.help + variable)} |\n"


def _type(param: TyperArgument | TyperOption) -> str:
    """Return a type in words, as `--help` shows it."""
    if isinstance(param, TyperOption) and param.is_flag:
        return "flag"
    with typer.Context(TyperCommand("earshot")) as context:
        shown = param.display_type(context).strip("<>").removesuffix(" range")
    shown = shown.removeprefix("list[").removesuffix("]")
    words = TYPES.get(shown.lower()) or " or ".join(f"`{value}`" for value in shown.split("|"))
    limits = param._get_number_range_help_str() or ""
    limits = re.sub(r"^x>=", "≥ ", limits.replace("<=x<=", " to "))
    return f"{words}, {limits}" if limits else words


def _default(value: object) -> str:
    if value is None or value is False or value in ("", ()):
        return ""
    if isinstance(value, enum.Enum):
        value = value.value
    return f"`{value}`"


def _metavar(argument: TyperArgument) -> str:
    return argument.metavar or str(argument.name).upper()


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
