"""Remove jobs that ended long ago: first their run directories, then their rows in the store."""

import asyncio
import logging
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

from orchestrator.service.store.store import Store, StoreUnavailableError

_ROUND_SECONDS = 3600.0

_log = logging.getLogger(__name__)


async def remove_old_jobs_hourly(store: Store, runs: Path, days: float) -> None:
    """Once an hour, remove jobs that ended more than `days` ago; runs until cancelled."""
    while True:
        try:
            await remove_old_jobs(store, runs, datetime.now(UTC) - timedelta(days=days))
        except StoreUnavailableError as error:
            _log.warning("old jobs will be removed later: %s", error)
        except OSError as error:
            _log.error("an old run directory cannot be removed: %s", error)
        await asyncio.sleep(_ROUND_SECONDS)


async def remove_old_jobs(store: Store, runs: Path, before: datetime) -> int:
    """Remove jobs that ended before a time, and older entries of the audit log; return the number of jobs."""
    count = 0
    while old := await store.ended_before(before):
        for job in old:
            folder = Path(job.run_dir)
            # A run directory elsewhere is not the service's to remove.
            if folder.is_relative_to(runs) and folder.exists():
                await asyncio.to_thread(shutil.rmtree, folder)
            await store.remove(job.id)
            count += 1
    await store.remove_audit_before(before)
    return count
