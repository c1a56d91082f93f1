"""Commands to a running job: pause, resume, checkpoint, scale, cancel.

Invariant: a job pauses, and writes checkpoints, between steps only; a step is never interrupted by a command.
"""

import asyncio
import os
import signal

from orchestrator.run.commands import Command, CommandKind
from orchestrator.run.directory import RunDirectory
from orchestrator.run.events import EventKind
from orchestrator.run.mailbox import Mailbox
from orchestrator.schemas.job_state import JobState
from rollout_workers.pool.pool import RolloutPool

_POLL_SECONDS = 0.5


class Control:
    """Pause and checkpoint requests of one job. For use on its event loop only."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._running = asyncio.Event()
        self._running.set()
        self._checkpoint_requested = False

    def pause(self) -> None:
        """Pause a running job after the current step."""
        self._running.clear()

    def resume(self) -> None:
        """Resume a paused job, or withdraw a pause that has not taken effect."""
        self._running.set()

    def request_checkpoint(self) -> None:
        """Request a checkpoint after the current step."""
        self._checkpoint_requested = True

    async def wait_while_paused(self) -> None:
        """Return once the job is not paused; a pause is recorded in its events."""
        if self._running.is_set():
            return
        self._run.append_event(EventKind.STATE, state=JobState.PAUSED)
        await self._running.wait()
        self._run.append_event(EventKind.STATE, state=JobState.RUNNING)

    def take_checkpoint_request(self) -> bool:
        """Return whether a checkpoint was requested since the last call."""
        requested, self._checkpoint_requested = self._checkpoint_requested, False
        return requested


async def run_commands(mailbox: Mailbox, run: RunDirectory, pool: RolloutPool, control: Control) -> None:
    """Carry out commands as they arrive, until cancelled. Each one is recorded as an event when it is carried out."""
    while True:
        for command in mailbox.take():
            run.append_event(EventKind.COMMAND, id=command.id, command=command.kind, count=command.count, by=command.by)
            _carry_out(command, pool, control)
        await asyncio.sleep(_POLL_SECONDS)


def _carry_out(command: Command, pool: RolloutPool, control: Control) -> None:
    match command.kind:
        case CommandKind.SCALE:
            assert command.count is not None
            pool.scale(command.count, f"requested{' by ' + command.by if command.by else ''}")
        case CommandKind.PAUSE:
            control.pause()
        case CommandKind.RESUME:
            control.resume()
        case CommandKind.CHECKPOINT:
            control.request_checkpoint()
        case CommandKind.CANCEL:
            # The same as Ctrl-C: everything that the job started is ended in order.
            os.kill(os.getpid(), signal.SIGINT)
