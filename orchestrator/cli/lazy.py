"""A command group that imports the module of a command only when that command is invoked.

The help of the group and shell completion need names and one line of help, which are in a table; a test compares the
table with the commands. `earshot --help` therefore does not wait for Ray or httpx, and modules import at their top.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any, ClassVar, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from orchestrator.cli.numbers import make_exact, negative_numbers_last


class Entry(NamedTuple):
    """A command in the table of its group."""

    panel: str
    """Title under which the group's help lists the command."""
    name: str
    target: str
    """`module:attribute`, a function or a `typer.Typer` with commands of its own."""
    help: str
    """First line of the docstring of the function, or the help of the `typer.Typer`."""


class LazyCommand(TyperCommand):
    """A command of which only the entry is known until it is invoked."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry.name, help=entry.help, rich_help_panel=entry.panel)
        self._entry = entry

    def load(self) -> TyperCommand | TyperGroup:
        """Import and return the command itself."""
        module, _, attribute = self._entry.target.partition(":")
        target = getattr(import_module(module), attribute)
        if isinstance(target, typer.Typer):
            app = target
        else:
            app = typer.Typer(add_completion=False)
            app.command()(target)
        command = get_command(app)
        assert isinstance(command, TyperCommand | TyperGroup)
        command.name = self._entry.name
        prepare(command)
        return command

    def make_context(self, *arguments: Any, **options: Any) -> typer.Context:
        """Return the context of the command itself, on which typer calls the command from here on."""
        return self.load().make_context(*arguments, **options)  # type: ignore[return-value]


def prepare(command: TyperCommand | TyperGroup) -> None:
    """Have a command, and the commands in it, take numbers as people write them, and name itself in its errors.

    Its help is plain text: the tables of typer cut the names of options, on a terminal and in a pipe.
    """
    command.rich_markup_mode = None
    for inner in getattr(command, "commands", {}).values():
        prepare(inner)
    make_exact(command)
    make_context = command.make_context

    def make_own_context(info_name: str | None, args: list[str], parent: Any = None, **options: Any) -> Any:
        try:
            return make_context(info_name, negative_numbers_last(command, args), parent=parent, **options)
        except typer.TyperException as error:
            if getattr(error, "ctx", command) is None:
                # An option without its value: typer does not say of which command.
                setattr(error, "ctx", typer.Context(command, info_name=info_name, parent=parent))  # noqa: B010
            raise

    setattr(command, "make_context", make_own_context)  # noqa: B010


class LazyGroup(TyperGroup):
    """The group of the commands in `entries`."""

    entries: ClassVar[Sequence[Entry]]

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {entry.name: LazyCommand(entry) for entry in self.entries}
