"""The supervisor on a store, one round at a time while a test waits."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from support.fake_driver import FolderRunner
from support.postgres import small_spec

from orchestrator.schemas.job_state import JobState
from orchestrator.service.store.database import sqlite_url
from orchestrator.service.store.store import Store
from orchestrator.service.supervision.limits import Limits
from orchestrator.service.supervision.supervisor import Supervisor


class Service:
    """A store and a supervisor that does rounds while a test waits."""

    def __init__(self, store: Store, runner: FolderRunner, limits: Limits | None = None, **options) -> None:
        self.store, self.runner = store, runner
        self.loop = Supervisor(store, runner, limits or Limits(running=3), **options)

    async def submit(self, **options):
        return (await self.store.submit(small_spec(), owner="ann", **options))[0].id

    async def until(self, job: str, *states: JobState):
        """Do rounds until the job is in one of the states; return it."""

        async def reached() -> bool:
            return (await self.store.get(job)).state in states

        await self.do_rounds(reached)
        return await self.store.get(job)

    async def do_rounds(self, reached: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not await reached():
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
    """Return a function that runs a test's coroutine on a service."""

    def run(body, limits: Limits | None = None, **options) -> None:
        async def main() -> None:
            async with Store(sqlite_url(tmp_path / "earshot.db"), tmp_path / "runs") as store:
                await body(Service(store, runner, limits, **options))

        asyncio.run(main())

    return run
