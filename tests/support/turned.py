"""The service's loop over a store, turned by the test that waits for something."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from support.postgres import small_spec
from support.stand_in import FolderRunner

from orchestrator.schemas.job_state import JobState
from orchestrator.service.store.database import sqlite_url
from orchestrator.service.store.store import Store
from orchestrator.service.supervision.limits import Limits
from orchestrator.service.supervision.supervisor import Supervisor


class Service:
    """A store and a loop over it, which turns while something is waited for."""

    def __init__(self, store: Store, runner: FolderRunner, limits: Limits | None = None, **options) -> None:
        self.store, self.runner = store, runner
        self.loop = Supervisor(store, runner, limits or Limits(running=3), **options)

    async def submit(self, **options):
        return (await self.store.submit(small_spec(), owner="ann", **options))[0].id

    async def until(self, job: str, *states: JobState):
        """Turn the loop until the job is in one of the states."""

        async def there() -> bool:
            return (await self.store.get(job)).state in states

        await self.turn(there)
        return await self.store.get(job)

    async def turn(self, there: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not await there():
            assert time.monotonic() < deadline, "nothing happened in time"
            await self.loop.round()
            await asyncio.sleep(0.02)

    async def states(self, job: str) -> list[str]:
        return [str(transition.to_state) for transition in await self.store.history(job)]


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[FolderRunner]:
    runner = FolderRunner(tmp_path / "cluster", gpus=4)
    yield runner
    runner.kill_all()


@pytest.fixture
def serve(tmp_path: Path, runner: FolderRunner):
    """Runs a test's coroutine on a service."""

    def run(body, limits: Limits | None = None, **options) -> None:
        async def main() -> None:
            async with Store(sqlite_url(tmp_path / "earshot.db"), tmp_path / "runs") as store:
                await body(Service(store, runner, limits, **options))

        asyncio.run(main())

    return run
