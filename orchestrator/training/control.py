"""What a job is told while it runs, and what its loop asks between two steps: may it go on, is a checkpoint wanted.

Invariant: a job pauses and writes checkpoints between steps only; a step is never left half done.
"""

import asyncio
import os
import signal

from orchestrator.run.commands import Command, CommandKind, Mailbox
from orchestrator.run.directory import RunDirectory
from rollout_workers.pool.pool import RolloutPool

_POLL_SECONDS = 0.5


class Control:
    """Of one job; for use on its event loop only."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._may_go = asyncio.Event()
        self._may_go.set()
        self._checkpoint = False

    def pause(self) -> None:
        """Have the job wait behind the step that is running."""
        self._may_go.clear()

    def resume(self) -> None:
        """Let a job go on that waits, or would."""
        self._may_go.set()

    def ask_for_checkpoint(self) -> None:
        """Have a checkpoint written behind the step that is running."""
        self._checkpoint = True

    async def between_steps(self) -> None:
        """Return when the job may go on; what it does meanwhile is in its events."""
        if self._may_go.is_set():
            return
        self._run.append_event("state", state="paused")
        await self._may_go.wait()
        self._run.append_event("state", state="running")

    def checkpoint_wanted(self) -> bool:
        """Whether a checkpoint was asked for since the last time this was called."""
        wanted, self._checkpoint = self._checkpoint, False
        return wanted


async def run_commands(mailbox: Mailbox, run: RunDirectory, pool: RolloutPool, control: Control) -> None:
    """Carry out commands as they come, until cancelled. Each is an event, behind which its effect can be waited for."""
    while True:
        for command in mailbox.take():
            run.append_event("command", id=command.id, command=command.kind, count=command.count, by=command.by)
            _carry_out(command, pool, control)
        await asyncio.sleep(_POLL_SECONDS)


def _carry_out(command: Command, pool: RolloutPool, control: Control) -> None:
    match command.kind:
        case CommandKind.SCALE:
            assert command.count is not None
            pool.scale(command.count, f"asked for{' by ' + command.by if command.by else ''}")
        case CommandKind.PAUSE:
            control.pause()
        case CommandKind.RESUME:
            control.resume()
        case CommandKind.CHECKPOINT:
            control.ask_for_checkpoint()
        case CommandKind.CANCEL:
            # As Ctrl-C does: everything the job started is ended in order.
            os.kill(os.getpid(), signal.SIGINT)
