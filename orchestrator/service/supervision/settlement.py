"""Record the commands that a job which has ended was sent and did not carry out.

Invariant: a command that the API answered with 202 leads to an event of the run, also if no driver read it. Jobs are
settled once their state is stored; a sender that finds the job ended after it has sent settles the command itself.
"""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path

from orchestrator.run.directory import RunDirectory
from orchestrator.run.files import COMMANDS
from orchestrator.run.mailbox import settle
from orchestrator.run.records import RunDirectoryError
from orchestrator.schemas.job_state import JobState
from orchestrator.service.store.records import JobRecord
from orchestrator.service.telemetry.file_threads import FilesUnavailableError, FileThreads

_REASONS: Mapping[JobState, str] = {
    JobState.SUCCEEDED: "the job had ended before it carried this out",
    JobState.FAILED: "the job failed before it carried this out",
    JobState.CANCELLED: "the job was cancelled before it carried this out",
}
_MOST_ATTEMPTS = 120

_log = logging.getLogger(__name__)


class Settlement:
    """Settles jobs; those whose run directory cannot be written yet are tried again."""

    def __init__(self, files: FileThreads) -> None:
        """`files` writes run directories."""
        self._files = files
        self._left: dict[str, tuple[Path, JobState, int]] = {}
        """By job: its run directory, its last state, and the attempts so far."""

    async def add(self, job: JobRecord, state: JobState) -> None:
        """Settle a job that has ended in `state`, now or in a later round."""
        self._left[job.id] = (Path(job.run_dir), state, 0)
        await self._try(job.id)

    async def advance(self, active: Collection[str] = ()) -> None:
        """Try again what could not be settled, except for jobs that are active again."""
        for job in list(self._left):
            if job in active:
                del self._left[job]
            else:
                await self._try(job)

    async def _try(self, job: str) -> None:
        run_dir, state, attempts = self._left.pop(job)
        try:
            await self._files.within(run_dir, settle_run, run_dir, state)
        except (RunDirectoryError, FilesUnavailableError, OSError) as error:
            # A driver that the cluster has lost track of may hold the lock for some seconds more.
            if attempts + 1 < _MOST_ATTEMPTS:
                self._left[job] = (run_dir, state, attempts + 1)
            else:
                _log.error("the last commands of job %s cannot be recorded as failed: %s", job, error)


def settle_run(run_dir: Path, state: JobState) -> None:
    """Settle the run of a job that has ended in `state`. Raises RunDirectoryError, OSError."""
    if (run_dir / COMMANDS).exists():
        settle(RunDirectory(run_dir), _REASONS[state])
