"""Remove jobs that have ended: first the files of a run, then its row in the store.

Invariants: a run directory is whole or gone under its name: it is renamed before its first file is removed. The row
stays until all files are gone, so that nothing is forgotten. Files that a job needs which has not ended are kept, links
are removed but not followed, and a job that cannot be removed delays no other one.
"""

import asyncio
import logging
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from audio_qa.errors import EarshotError, cause_of, shown
from orchestrator.service.observability import counters
from orchestrator.service.store.records import JobRecord
from orchestrator.service.store.store import (
    JobInUseError,
    JobNotFoundError,
    StaleStateError,
    Store,
    StoreUnavailableError,
)

ASIDE = ".removed"
"""Folder beside the runs with those whose removal has begun."""
_ROUND_SECONDS = 3600.0

_log = logging.getLogger(__name__)


class RemovalError(EarshotError):
    """Files of a run that cannot be removed now; the message has the cause."""


async def remove_old_jobs_hourly(store: Store, runs: Path, days: float) -> None:
    """Once an hour, remove jobs that ended more than `days` ago; runs until cancelled."""
    while True:
        try:
            await remove_old_jobs(store, runs, datetime.now(UTC) - timedelta(days=days))
        except StoreUnavailableError as error:
            _log.warning("old jobs will be removed later: %s", error)
        await asyncio.sleep(_ROUND_SECONDS)


async def remove_old_jobs(store: Store, runs: Path, before: datetime) -> int:
    """Remove jobs that ended before a time, and older entries of the audit log; return the number of jobs.

    What cannot be removed is logged, and tried again in the next round. Raises StoreUnavailableError.
    """
    count, last = 0, None
    while old := await store.ended_before(before, last):
        for job in old:
            count += await _is_removed(store, runs, job)
        last = old[-1]
    await store.remove_audit_before(before)
    return count


async def _is_removed(store: Store, runs: Path, job: JobRecord) -> bool:
    try:
        await remove_job(store, runs, job)
    except StoreUnavailableError:
        raise
    except JobInUseError as error:
        _log.info("%s", error)
    except (JobNotFoundError, StaleStateError):
        pass  # a user has removed it, or has had it queued again
    except RemovalError as error:
        counters.LOOP_FAILURES.labels("retention").inc()
        _log.error("%s", error)
    except Exception:
        counters.LOOP_FAILURES.labels("retention").inc()
        _log.exception("job %s could not be removed", job.id)
    else:
        return True
    return False


async def remove_job(store: Store, runs: Path, job: JobRecord) -> None:
    """Remove a job that has ended, with its run directory. The audit log, and copies in a storage, stay.

    Raises:
        JobNotFoundError, StaleStateError: it was removed, or queued again, meanwhile.
        JobInUseError: jobs that have not ended need its files; nothing was changed.
        RemovalError: files are left. The job stays, without what was removed; a repetition removes the rest.
    """
    await store.begin_removal(job)
    await asyncio.to_thread(_remove_files, runs, job)
    await store.remove(job.id)


def _remove_files(runs: Path, job: JobRecord) -> None:
    folder, aside = Path(job.run_dir), runs / ASIDE / job.id
    try:
        # A run directory elsewhere is not the service's to remove.
        if folder.name == job.id and folder.parent.resolve() == runs.resolve():
            if folder.is_symlink():
                folder.unlink()
            elif folder.exists():
                aside.parent.mkdir(mode=0o700, exist_ok=True)
                try:
                    folder.rename(aside)
                except FileNotFoundError:
                    if folder.exists():
                        raise
                    # Another removal of the job has renamed it.
        if aside.exists():
            _remove_tree(aside)
    except OSError as error:
        raise RemovalError(
            f"the run directory of job {job.id} cannot be removed: {shown(error.filename or str(folder))}: "
            f"{error.strerror or cause_of(error)}"
        ) from error


def _remove_tree(folder: Path) -> None:
    """Remove as much of a folder as possible; raise the first OSError if something is left."""
    errors: list[OSError] = []

    def note(_: Callable[..., Any], path: str, found: Any) -> None:
        error = found[1]
        if not isinstance(error, FileNotFoundError):
            errors.append(error)

    # A link in it is removed, not followed.
    shutil.rmtree(folder, onerror=note)
    if errors:
        raise errors[0]
