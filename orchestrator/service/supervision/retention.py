"""Forgets jobs that ended long ago: first their run directories, then what the store knows of them."""

import asyncio
import logging
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

from orchestrator.service.store.store import Store, StoreUnavailableError

_ROUND_SECONDS = 3600.0

_log = logging.getLogger(__name__)


async def keep_tidy(store: Store, runs: Path, days: float) -> None:
    """Until cancelled; removes what ended more than `days` ago, once an hour."""
    while True:
        try:
            await tidy(store, runs, datetime.now(UTC) - timedelta(days=days))
        except StoreUnavailableError as error:
            _log.warning("old jobs are forgotten later: %s", error)
        except OSError as error:
            _log.error("an old run directory cannot be removed: %s", error)
        await asyncio.sleep(_ROUND_SECONDS)


async def tidy(store: Store, runs: Path, before: datetime) -> int:
    """Remove the jobs that ended before a time, and older entries of the audit log; how many jobs."""
    count = 0
    while old := await store.ended_before(before):
        for job in old:
            folder = Path(job.run_dir)
            # A run directory that lies elsewhere is somebody else's to remove.
            if folder.is_relative_to(runs) and folder.exists():
                await asyncio.to_thread(shutil.rmtree, folder)
            await store.forget(job.id)
            count += 1
    await store.forget_audit(before)
    return count
