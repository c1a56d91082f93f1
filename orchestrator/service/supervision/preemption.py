"""How a running job gives way: it writes a checkpoint, then its driver is ended; the job is queued again.

Nothing here is remembered for good: a service that takes over asks for another checkpoint.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.run.commands import CommandKind, send
from orchestrator.run.directory import RunDirectory
from orchestrator.run.events import PREEMPTION
from orchestrator.schemas.job_state import JobState
from orchestrator.service.store.records import JobRecord
from orchestrator.service.supervision.run_view import RunView

_DEADLINE_SECONDS = 600.0
"""A checkpoint that takes longer is not waited for; the job goes on from an older one then."""


class Preemption:
    """Of any number of jobs."""

    def __init__(self, stop: Callable[[str], Awaitable[None]]) -> None:
        """
        Args:
            stop: ends a driver by its submission id.
        """
        self._stop = stop
        self._asked: dict[str, str] = {}
        """By submission, the command for its checkpoint."""

    async def advance(self, job: JobRecord, view: RunView) -> None:
        """Do what is next for a job with `preempt_requested_at` whose driver runs."""
        assert job.preempt_requested_at is not None
        assert job.submission_id is not None
        late = (datetime.now(UTC) - job.preempt_requested_at).total_seconds() > _DEADLINE_SECONDS
        # A driver that is not at its steps yet has nothing new to save.
        if late or job.state not in (JobState.RUNNING, JobState.PAUSED):
            await self._stop(job.submission_id)
        elif job.submission_id not in self._asked:
            self._asked[job.submission_id] = await asyncio.to_thread(_ask, job)
        elif self._asked[job.submission_id] in view.saved:
            await self._stop(job.submission_id)

    def forget(self, submission_id: str) -> None:
        """A driver has ended."""
        self._asked.pop(submission_id, None)


def _ask(job: JobRecord) -> str:
    run = RunDirectory(Path(job.run_dir))
    identifier = send(run, CommandKind.CHECKPOINT, by=PREEMPTION)
    if job.state is JobState.PAUSED:
        # Checkpoints are written behind a step only: it makes one more.
        send(run, CommandKind.RESUME, by=PREEMPTION)
    return identifier
