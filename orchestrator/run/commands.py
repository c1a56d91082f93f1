"""Commands to a running job: scale, pause, resume, checkpoint, cancel. `orchestrator.run.mailbox` delivers them."""

from dataclasses import dataclass
from enum import StrEnum

from audio_qa.errors import InputError, shown
from orchestrator.schemas.api import MOST_WORKERS


class CommandError(InputError):
    """A command that cannot be carried out; the message says why."""


class CommandKind(StrEnum):
    """Kind of a command."""

    SCALE = "scale"
    """Set the number of rollout workers to `count`."""
    PAUSE = "pause"
    """Pause after the current step."""
    RESUME = "resume"
    """Resume a paused job, or withdraw a pause that has not taken effect."""
    CHECKPOINT = "checkpoint"
    """Write a checkpoint after the current step."""
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Command:
    """One command to a job."""

    kind: CommandKind
    count: int | None = None
    """Rollout workers; with `scale` only."""
    id: str = ""
    by: str = ""
    """Sender, for the event."""

    def check(self) -> None:
        """Raise CommandError unless the command can be carried out."""
        if (self.kind is CommandKind.SCALE) != (self.count is not None):
            raise CommandError(f"{self.kind} {'needs' if self.count is None else 'takes no'} number of workers")
        if self.count is not None and (type(self.count) is not int or not 0 <= self.count <= MOST_WORKERS):
            raise CommandError(f"a job cannot have {shown(self.count)} rollout workers: give 0 to {MOST_WORKERS}")
