"""Those who write do not keep others from reading."""

import asyncio
import time

import pytest

from orchestrator.service.store.access import Role
from orchestrator.service.store.database import sqlite_url
from orchestrator.service.store.store import Store

pytestmark = pytest.mark.anyio


async def test_reading_goes_on_while_many_wait_to_write(tmp_path):
    async with Store(sqlite_url(tmp_path / "earshot.db"), tmp_path) as store:
        await store.create_token(name="ada", owner="ada", role=Role.VIEWER, token_hash="h")
        async with store._database.write():
            waiting = [asyncio.create_task(store.audit("eve", "job.submit")) for _ in range(100)]
            await asyncio.sleep(0.05)
            started = time.monotonic()
            assert await store.find_token("h") is not None
            # Without a bound it would wait for a connection of the pool, up to its timeout.
            assert time.monotonic() - started < 5
            assert not any(task.done() for task in waiting)
        await asyncio.gather(*waiting)
        assert len(await store.audit_log(limit=500)) == 100
