"""Commands to a running job: pause, resume, checkpoint, scale, cancel.

Invariants: a job pauses, and writes checkpoints, between steps only; a step is never interrupted by a command. What was
requested stays requested over restarts of learner and driver, until it is done or an event says why it cannot be.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Iterable, Sequence

from audio_qa.errors import EarshotError, one_line
from orchestrator.run.commands import Command, CommandKind
from orchestrator.run.directory import RunDirectory
from orchestrator.run.events import EventKind
from orchestrator.run.history import RunHistory
from orchestrator.run.mailbox import Mailbox
from orchestrator.schemas.job_state import JobState
from rollout_workers.pool.pool import RolloutPool

_POLL_SECONDS = 0.5
_AT_ONCE = 100
"""Commands carried out before the job's other tasks get their turn."""

_log = logging.getLogger(__name__)


class CommandRefusedError(EarshotError):
    """A command that this job cannot carry out; the message says why."""


class Control:
    """The requests to one job that are still to be met. For use on its event loop only."""

    def __init__(self, run: RunDirectory, earlier: RunHistory | None = None) -> None:
        """
        Args:
            earlier: the run as an earlier driver of the same job left it; what was requested then is requested still.
        """
        earlier = earlier or RunHistory()
        self._run = run
        self._paused = earlier.pause_requested
        self._changed = asyncio.Event()
        self._refused: dict[CommandKind, str] = {}
        self._checkpoints = list(earlier.saving)
        """Ids of the checkpoint commands for which no checkpoint was begun."""
        self._begun: list[str] = []
        """Ids of those whose checkpoint is being written."""
        self.requested_workers = earlier.requested_workers
        """Rollout workers requested by the last command; None before the first."""
        self._most_workers: int | None = None

    def pause(self) -> None:
        """Pause a running job after the current step. Raises CommandRefusedError."""
        self._check(CommandKind.PAUSE)
        self._paused = True

    def resume(self) -> None:
        """Resume a paused job, or withdraw a pause that has not taken effect."""
        self._paused = False
        self._changed.set()

    def request_checkpoint(self, identifier: str) -> None:
        """Request a checkpoint after the current step. Raises CommandRefusedError."""
        self._check(CommandKind.CHECKPOINT)
        if identifier not in self._checkpoints and identifier not in self._begun:
            self._checkpoints.append(identifier)
            self._changed.set()

    def is_paused(self) -> bool:
        """Return whether the job is paused, or is to pause after the current step."""
        return self._paused

    def refuse(self, kind: CommandKind, reason: str) -> None:
        """Fail commands of a kind from now on; `reason` is a sentence."""
        self._refused[kind] = reason

    def limit_workers(self, most: int) -> None:
        """Fail commands for more rollout workers than one for each GPU that they share with the learner."""
        self._most_workers = most
        if self.requested_workers is not None:
            self.requested_workers = min(self.requested_workers, most)

    def request_workers(self, count: int) -> None:
        """Note a number of rollout workers. Raises CommandRefusedError."""
        if self._most_workers is not None and count > self._most_workers:
            raise CommandRefusedError(
                f"{count} rollout workers are too many: with rollout.weight_sync cuda_ipc each shares the GPU of one "
                f"learner rank, and the job has {self._most_workers}"
            )
        self.requested_workers = count

    async def wait_while_paused(self, save: Callable[[], Awaitable[None]] | None = None) -> None:
        """Return once the job is not paused; a pause is recorded in its events.

        Args:
            save: writes a checkpoint of a paused job if one is requested; None before the first step.
        """
        if not self.is_paused():
            return
        self._run.append_event(EventKind.STATE, state=JobState.PAUSED)
        while self.is_paused():
            self._changed.clear()
            if not self.checkpoint_requested:
                await self._changed.wait()
            elif save is not None:
                await save()
            else:
                self._fail_checkpoints("the job is paused before its first step and has nothing to save")
        self._run.append_event(EventKind.STATE, state=JobState.RUNNING)

    @property
    def checkpoint_requested(self) -> bool:
        """True if a checkpoint was requested and none was begun since."""
        return bool(self._checkpoints)

    def begin_checkpoint(self) -> tuple[str, ...]:
        """Return the ids of the commands that the checkpoint which begins now answers; `end_checkpoint` ends them."""
        begun, self._checkpoints = self._checkpoints, []
        self._begun += begun
        return tuple(begun)

    def end_checkpoint(self, identifiers: Sequence[str]) -> None:
        """Note that the checkpoint for these commands was written, and recorded with them."""
        self._begun = [one for one in self._begun if one not in identifiers]

    def repeat_checkpoints(self) -> None:
        """Request again the checkpoints that were begun and not ended: the learner was lost meanwhile."""
        self._checkpoints, self._begun = self._begun + self._checkpoints, []

    def _fail_checkpoints(self, reason: str) -> None:
        for identifier in self._checkpoints:
            self._run.append_event(
                EventKind.COMMAND_FAILED, id=identifier, command=CommandKind.CHECKPOINT, reason=reason
            )
        self._checkpoints = []

    def _check(self, kind: CommandKind) -> None:
        if kind in self._refused:
            raise CommandRefusedError(self._refused[kind])


class CommandRunner:
    """Carries out the commands of a run's mailbox. Each is recorded when its target is set, or when it has failed."""

    def __init__(
        self, mailbox: Mailbox, run: RunDirectory, pool: RolloutPool, control: Control, waiting: Iterable[Command] = ()
    ) -> None:
        """`waiting` are commands that were taken from the mailbox before."""
        self._mailbox, self._run, self._pool, self._control = mailbox, run, pool, control
        self._waiting = list(waiting)
        self._trouble: str | None = None

    async def run(self) -> None:
        """Carry out commands as they arrive, until cancelled. What cannot be read or recorded now is tried again."""
        while True:
            try:
                self._waiting += self._mailbox.take()
                while self._waiting:
                    self.carry_out(_AT_ONCE)
                    await asyncio.sleep(0)
                self._trouble = None
            except Exception as error:
                self._report(error)
            await asyncio.sleep(_POLL_SECONDS)

    def carry_out(self, count: int | None = None) -> None:
        """Carry out the commands that wait, or the first `count` of them."""
        batch = self._waiting[:count]
        last_scale = next((command for command in reversed(batch) if command.kind is CommandKind.SCALE), None)
        for command in batch:
            try:
                # Workers are not requested for a number that the next command replaces.
                if command.kind is not CommandKind.SCALE or command is last_scale:
                    self._carry_out(command)
            except Exception as error:
                self._run.append_event(
                    EventKind.COMMAND_FAILED, id=command.id, command=command.kind, reason=one_line(str(error))
                )
            else:
                self._run.append_event(
                    EventKind.COMMAND, id=command.id, command=command.kind, count=command.count, by=command.by
                )
            self._waiting.remove(command)
            if command.kind is CommandKind.CANCEL:
                # The same as Ctrl-C: everything that the job started is ended in order.
                os.kill(os.getpid(), signal.SIGINT)

    def _carry_out(self, command: Command) -> None:
        match command.kind:
            case CommandKind.SCALE:
                assert command.count is not None
                before = self._control.requested_workers
                self._control.request_workers(command.count)
                try:
                    self._pool.scale(command.count, f"requested{' by ' + command.by if command.by else ''}")
                except Exception:
                    self._control.requested_workers = before
                    raise
            case CommandKind.PAUSE:
                self._control.pause()
            case CommandKind.RESUME:
                self._control.resume()
            case CommandKind.CHECKPOINT:
                self._control.request_checkpoint(command.id)

    def _report(self, error: Exception) -> None:
        """Report once that commands cannot be read or recorded now; the job continues, and they wait."""
        trouble = f"commands cannot be carried out now: {one_line(str(error))}"
        if trouble == self._trouble:
            return
        self._trouble = trouble
        _log.warning("%s", trouble)
        try:
            self._run.append_event(EventKind.ERROR, error=type(error).__name__, message=trouble)
        except OSError:
            _log.exception("the trouble with commands cannot be recorded either")
