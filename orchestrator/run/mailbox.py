"""Deliver commands to a running job: one line per command in its run directory.

Whoever can write to the run directory can command the job, from another process or machine, without an open port.
Invariant: every command is carried out at most once, in the order sent, and leads to an event that names it; a line
that is not a command leads to an event, too.
"""

import json
import os
import uuid

from orchestrator.run.commands import Command, CommandKind
from orchestrator.run.directory import RunDirectory
from orchestrator.run.events import EventKind
from orchestrator.run.files import COMMANDS
from orchestrator.run.history import history_of
from orchestrator.run.lines import LineReader
from orchestrator.run.records import json_text


def send(run: RunDirectory, kind: CommandKind, *, count: int | None = None, by: str = "") -> str:
    """Send a command to the job of a run, and return the command's id.

    Raises CommandError; nothing is written then.
    """
    command = Command(kind, count, uuid.uuid4().hex, by)
    command.check()
    line = json_text({"id": command.id, "kind": kind.value, "count": count, "by": by}) + "\n"
    descriptor = os.open(run.path / COMMANDS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        # A single write, so that lines of several senders do not mix.
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)
    return command.id


class Mailbox:
    """Commands of a run that have not been carried out yet."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        history = history_of(run.events())
        self._taken, self._refused = set(history.commands), set(history.refused)
        self._reader = LineReader(run.path / COMMANDS)

    def take(self) -> list[Command]:
        """Return the commands sent since the last call, except those that an earlier process carried out."""
        new: dict[str, Command] = {}
        for line in self._reader.lines():
            command = self._parse(line)
            if command is not None and command.id not in self._taken:
                new[command.id] = command
        # Only now: after an error the same lines are read again.
        self._taken.update(new)
        return list(new.values())

    def _parse(self, line: bytes) -> Command | None:
        """Return None for a line that is not a command: it is reported, and the job continues."""
        try:
            record = json.loads(line)
            command = Command(CommandKind(record["kind"]), record["count"], str(record["id"]), str(record["by"]))
            command.check()
        except (ValueError, TypeError, KeyError) as error:
            shown = line[:200].decode(errors="replace")
            if shown not in self._refused:
                self._refused.add(shown)
                problem = f"{type(error).__name__}: {error}"
                self._run.append_event(EventKind.BAD_COMMAND, line=shown, problem=problem)
            return None
        return command
