"""Preempt running jobs: have a checkpoint written, then stop the driver; the job is queued again.

This state is not stored: a restarted service requests another checkpoint.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.run.commands import CommandKind
from orchestrator.run.directory import RunDirectory
from orchestrator.run.events import PREEMPTION
from orchestrator.run.history import RunHistory
from orchestrator.run.mailbox import send
from orchestrator.schemas.job_state import JobState
from orchestrator.service.store.records import JobRecord
from orchestrator.service.telemetry.file_threads import FileThreads

_DEADLINE_SECONDS = 600.0
"""Longest wait for the checkpoint; after it the job resumes from an older one."""


class Preemption:
    """The preemptions in progress."""

    def __init__(self, stop: Callable[[str], Awaitable[None]], files: FileThreads) -> None:
        """
        Args:
            stop: stops a driver by its submission id.
            files: reads and writes run directories.
        """
        self._stop, self._files = stop, files
        self._commands: dict[str, str] = {}
        """Id of the checkpoint command, by submission."""

    async def advance(self, job: JobRecord, history: RunHistory) -> None:
        """Take the next step for a job with `preempt_requested_at` whose driver is running."""
        assert job.preempt_requested_at is not None
        assert job.submission_id is not None
        late = (datetime.now(UTC) - job.preempt_requested_at).total_seconds() > _DEADLINE_SECONDS
        # A driver that has not reached its first step has nothing new to save.
        if late or job.state not in (JobState.RUNNING, JobState.PAUSED):
            await self._stop(job.submission_id)
        elif job.submission_id not in self._commands:
            self._commands[job.submission_id] = await self._files.within(Path(job.run_dir), _request_checkpoint, job)
        elif self._commands[job.submission_id] in history.saved | history.failed:
            await self._stop(job.submission_id)

    def forget(self, submission_id: str) -> None:
        """Drop the state of a driver that has ended."""
        self._commands.pop(submission_id, None)


def _request_checkpoint(job: JobRecord) -> str:
    return send(RunDirectory(Path(job.run_dir)), CommandKind.CHECKPOINT, by=PREEMPTION)
