"""What a loop over steps asks between two of them: may it go on, is a checkpoint wanted.

Invariant: a job pauses and is asked for checkpoints between steps only; a step is never left half done.
"""

import asyncio

from orchestrator.run_directory import RunDirectory


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
