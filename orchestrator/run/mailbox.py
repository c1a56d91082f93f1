"""Deliver commands to a running job: one line per command in its run directory.

Whoever can write to the run directory can command the job, from another process or machine, without an open port.
Invariant: every command leads to an event that names it, in the order sent: carried out, at most once by each driver,
or failed with the reason; a line that is not a command leads to an event, too. What no driver took is settled once the
job has ended.
"""

import json
import os
import uuid

from audio_qa.errors import shown
from orchestrator.run.commands import Command, CommandError, CommandKind
from orchestrator.run.directory import RunDirectory
from orchestrator.run.events import PREEMPTION, EventKind
from orchestrator.run.files import COMMANDS
from orchestrator.run.history import history_of
from orchestrator.run.lines import LineReader
from orchestrator.run.records import json_text

_LONGEST_NAME = 200
"""Most characters of an id or a sender, which are repeated in events."""


def send(
    run: RunDirectory, kind: CommandKind, *, count: int | None = None, by: str = "", identifier: str | None = None
) -> str:
    """Send a command to the job of a run, and return the command's id.

    Args:
        identifier: id of the command; default: a new one. The job carries out one command of an id, however often it
            is sent.

    Raises CommandError, and OSError if it cannot be written; the job does not get it then.
    """
    command = Command(kind, count, identifier or uuid.uuid4().hex, by)
    command.check()
    _check_names(command)
    path = run.path / COMMANDS
    line = (json_text({"id": command.id, "kind": kind.value, "count": count, "by": by}) + "\n").encode()
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            # A sender was killed, or its disk was full: a line that follows a torn one would be lost with it.
            line = b"\n" + line
        # A single write, so that lines of several senders do not mix.
        if os.write(descriptor, line) != len(line):
            raise OSError(f"{str(path)!r}: the command could not be written; the disk is full")
    finally:
        os.close(descriptor)
    return command.id


def settle(run: RunDirectory, reason: str) -> int:
    """Record as failed what a job that has ended was told and did not do. Return the number of these commands.

    Args:
        reason: why, as a sentence.

    Raises RunDirectoryError if a process runs the job: it may still do it.
    """
    if not (run.path / COMMANDS).exists():
        return 0
    with run.lock():
        left = {command.id: command.kind for command in Mailbox(run).take()}
        left |= history_of(run.events()).due
        for identifier, kind in left.items():
            run.append_event(EventKind.COMMAND_FAILED, id=identifier, command=kind, reason=reason)
    return len(left)


class Mailbox:
    """Commands of a run that no event names yet."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        history = history_of(run.events())
        self._taken, self._refused = set(history.commands), set(history.refused)
        self._reader = LineReader(run.path / COMMANDS)

    def take(self) -> list[Command]:
        """Return the commands sent since the last call, except those that an earlier process settled."""
        new: dict[str, Command] = {}
        for line in self._reader.lines():
            command = self._parse(line)
            if command is not None and command.id not in self._taken:
                new.setdefault(command.id, command)
        # Only now: after an error the same lines are read again.
        self._taken.update(new)
        return list(new.values())

    def take_first(self) -> list[Command]:
        """Take the commands sent before this driver started, without those of a preemption, which are failed.

        A preemption ends with the driver that it stops: a later one must neither stop for it nor go on for it.
        """
        kept = []
        for command in self.take():
            if command.by == PREEMPTION:
                reason = "the driver that was to give way has ended"
                self._run.append_event(EventKind.COMMAND_FAILED, id=command.id, command=command.kind, reason=reason)
            else:
                kept.append(command)
        return kept

    def _parse(self, line: bytes) -> Command | None:
        """Return None for a line that is not a command: it is reported, and the job continues."""
        if not line.strip():
            return None
        try:
            record = json.loads(line)
            command = Command(CommandKind(record["kind"]), record["count"], str(record["id"]), str(record["by"]))
            command.check()
            _check_names(command)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            start = line[:200].decode(errors="replace")
            if start not in self._refused:
                self._run.append_event(EventKind.BAD_COMMAND, line=start, problem=f"{type(error).__name__}: {error}")
                self._refused.add(start)
            return None
        return command


def _check_names(command: Command) -> None:
    """Raise CommandError for an id or a sender that an event could not repeat in full."""
    for name in (command.id, command.by):
        if len(name) > _LONGEST_NAME:
            raise CommandError(f"a command's id or sender has at most {_LONGEST_NAME} characters, not {shown(name)}")
