"""The supervisor with fake drivers, as a program: `service_program.py DATABASE_URL FOLDER RUNS RUNNING`."""

import asyncio
import logging
import sys
from pathlib import Path

from orchestrator.service.store.store import Store
from orchestrator.service.supervision.limits import Limits
from orchestrator.service.supervision.supervisor import Supervisor

sys.path.insert(0, str(Path(__file__).parents[2]))
from support.fake_driver import FolderRunner


async def main(url: str, folder: str, runs: str, running: str) -> None:
    async with Store(url, Path(runs)) as store:
        print("up", flush=True)
        await Supervisor(store, FolderRunner(Path(folder)), Limits(running=int(running))).run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    asyncio.run(main(*sys.argv[1:]))
