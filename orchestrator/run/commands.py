"""What a running job is told: scale, pause, resume, checkpoint, cancel. One line a command in its run directory.

Whoever can write to the run directory can tell the job, from another process or machine, and nobody has to listen on a
port. Invariant: every command is carried out at most once, in the order given, and ends in an event that names it; a
line that is no command ends in an event, too.
"""

import json
import os
import uuid
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.run.directory import RunDirectory
from orchestrator.run.records import json_text

FILE = "commands.jsonl"


class CommandError(ValueError):
    """A command that makes no sense; the message says why."""


class CommandKind(StrEnum):
    SCALE = "scale"
    """To `count` rollout workers."""
    PAUSE = "pause"
    """Behind the step that is running."""
    RESUME = "resume"
    CHECKPOINT = "checkpoint"
    """Behind the step that is running."""
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Command:
    """One thing a job is told."""

    kind: CommandKind
    count: int | None = None
    """Of rollout workers, where the kind is scale."""
    id: str = ""
    by: str = ""
    """Who told it, for the event."""

    def check(self) -> None:
        """Raise CommandError unless it can be carried out."""
        if (self.kind is CommandKind.SCALE) != (self.count is not None):
            raise CommandError(f"{self.kind} {'needs' if self.count is None else 'takes no'} number of workers")
        if self.count is not None and self.count < 0:
            raise CommandError(f"{self.count} rollout workers cannot be: give 0 or more")


def send(run: RunDirectory, kind: CommandKind, *, count: int | None = None, by: str = "") -> str:
    """Tell the job of a run; the command's id. Raises CommandError, and writes nothing then."""
    command = Command(kind, count, uuid.uuid4().hex, by)
    command.check()
    line = json_text({"id": command.id, "kind": kind.value, "count": count, "by": by}) + "\n"
    descriptor = os.open(run.path / FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        # One write: lines of several senders do not mix.
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)
    return command.id


class Mailbox:
    """The commands of a run that are still to be carried out."""

    def __init__(self, run: RunDirectory) -> None:
        self._run, self._path = run, run.path / FILE
        events = run.events()
        self._done = {event["id"] for event in events if event["kind"] == "command"}
        self._refused = {event["line"] for event in events if event["kind"] == "bad_command"}
        self._offset = 0

    def take(self) -> list[Command]:
        """What has come since the last time, whole lines only, without what an earlier process carried out."""
        if not self._path.is_file() or self._path.stat().st_size <= self._offset:
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        commands = [command for line in whole.splitlines() if (command := self._command(line)) is not None]
        return [command for command in commands if command.id not in self._done]

    def _command(self, line: bytes) -> Command | None:
        """None for what is no command: whoever wrote it is told, and the job goes on."""
        try:
            record = json.loads(line)
            command = Command(CommandKind(record["kind"]), record["count"], str(record["id"]), str(record["by"]))
            command.check()
        except (ValueError, TypeError, KeyError) as error:
            shown = line[:200].decode(errors="replace")
            if shown not in self._refused:
                self._refused.add(shown)
                self._run.append_event("bad_command", line=shown, problem=f"{type(error).__name__}: {error}")
            return None
        return command
