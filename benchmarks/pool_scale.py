"""Cost of a worker for the pool, with 1 to 256 workers on simulated engines.

The pool and its calls to Ray actors are the real ones; only the engines are simulated. Since 256 processes do not fit
on two cores, each actor hosts many workers. For every number of workers the pool gets more groups than they can
generate in the time. Measured are the CPU time of the pool's thread per group (from request to answer, including Ray's
serialization on this side), the memory of the pool's process, and the efficiency: the simulated work of the groups that
were generated in the measured interval, over the capacity of all workers in that interval.

The value is the time per group with 256 workers; `passed` is true if it is below 1 ms and at most 1.5 times the minimum
over all numbers of workers, and the throughput with 256 workers is at least 95 % of the ideal one.
"""

import argparse
import asyncio
import gc
import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import ray

from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from benchmarks.support.result import Result
from protocol.rollout import Answer, RolloutRequest, Sampling, WorkerSettings, WorkerStatus
from rollout_workers.limits import RolloutLimits
from rollout_workers.pool.pool import RolloutPool
from rollout_workers.simulated import SimulatedPace, SimulatedWorker
from rollout_workers.worker.handle import ActorHandle

WORKERS = (1, 4, 16, 64, 256)
HOSTS = 4
GROUP = Sampling(group_size=8, max_tokens=32)
PACE = SimulatedPace(group_seconds=4.0, spread=0.5, groups_at_once=4, tokens=32)
WARM_UP_SECONDS, MEASURED_SECONDS = 8.0, 20.0
MAX_MILLISECONDS, MIN_EFFICIENCY, MAX_GROWTH = 1.0, 0.95, 1.5


class Host:
    """Many simulated workers in one process."""

    def __init__(self) -> None:
        self._workers: dict[str, SimulatedWorker] = {}

    async def call(self, called: str, *arguments: Any) -> Any:
        name, _, method = called.partition(".")
        if name not in self._workers:
            self._workers[name] = SimulatedWorker(name, PACE)
        return await getattr(self._workers[name], method)(*arguments)


class HostedActor:
    """One worker of a host, with the methods of an actor."""

    def __init__(self, host: Any, name: str) -> None:
        self._host, self._name = host, name

    def __getattr__(self, method: str) -> Any:
        if method == "__ray_ready__":
            return self._host.__ray_ready__
        return SimpleNamespace(remote=partial(self._host.call.remote, f"{self._name}.{method}"))


class HostedHandle(ActorHandle):
    """The pool's handle of a worker of a host."""

    def __init__(self, host: Any, name: str) -> None:
        super().__init__(HostedActor(host, name))

    async def start(self) -> WorkerStatus:
        """Start the worker. Its process is shared, so it is not recorded for `kill`."""
        return await self._call("start")  # type: ignore[no-any-return]

    def kill(self) -> None:
        """Mark the worker as killed. Its process is shared, so it keeps running."""
        self._killed = True


def requests(count: int) -> list[RolloutRequest]:
    """Return requests with questions of typical length."""
    text, choices = "Which of these sounds is heard first in the recording?", ("a bell", "a dog", "a car", "rain")
    return [
        RolloutRequest(
            Question("scale", i, str(i), f"clips/{i:06}.wav", text, choices, "a dog"), PromptTemplate.ANSWER, i
        )
        for i in range(count)
    ]


def resident_mib() -> float:
    """Return the resident memory of this process, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


async def measure(workers: int, hosts: list[Any], warm_up: float, seconds: float) -> dict[str, Any]:
    """Measure the pool with this number of workers, all of them busy."""
    gc.collect()
    memory = resident_mib()
    pool = RolloutPool(
        WorkerSettings("model", 1024, max_concurrent=PACE.groups_at_once * GROUP.group_size),
        RolloutLimits(),
        make_worker=lambda name: HostedHandle(hosts[int(name.rpartition("-")[2]) % len(hosts)], name),
    )
    await pool.start(workers)
    await pool.wait_until_serving(workers)
    slots = workers * PACE.groups_at_once
    submitted = requests(int(slots * (2 + (warm_up + seconds) / PACE.group_seconds)))
    finished: list[float] = []

    def note(request: RolloutRequest, future: asyncio.Future[Answer]) -> None:
        if not future.cancelled():
            finished.append(PACE.seconds_for(request))

    with Clock() as submit:
        futures = [pool.submit(request, GROUP) for request in submitted]
    for request, future in zip(submitted, futures, strict=True):
        future.add_done_callback(partial(note, request))
    await asyncio.sleep(warm_up)
    before = len(finished)
    with Clock() as run:
        await asyncio.sleep(seconds)
    done = len(finished) - before
    memory = resident_mib() - memory
    assert len(finished) < len(submitted) - slots, "the workers ran out of work"
    work = sum(finished[before : before + done])
    for future in futures:
        future.cancel()
    await pool.stop()
    return {
        "workers": workers,
        "groups": done,
        "pool_milliseconds_per_group": round(1000 * (submit.thread / len(submitted) + run.thread / done), 3),
        "process_milliseconds_per_group": round(1000 * (submit.process / len(submitted) + run.process / done), 3),
        "efficiency": round(work / (slots * run.seconds), 4),
        "groups_per_second": round(done / run.seconds, 1),
        "memory_mib": round(memory, 1),
    }


class Clock:
    """Wall-clock seconds, and CPU seconds of this thread and this process."""

    def __enter__(self) -> Self:
        self._start = (time.perf_counter(), time.thread_time(), time.process_time())
        return self

    def __exit__(self, *_: object) -> None:
        now = (time.perf_counter(), time.thread_time(), time.process_time())
        self.seconds, self.thread, self.process = (b - a for a, b in zip(self._start, now, strict=True))


async def measure_all(counts: list[int]) -> list[dict[str, Any]]:
    host = ray.remote(Host).options(num_cpus=0, max_concurrency=10_000)
    hosts = [host.remote() for _ in range(HOSTS)]
    await measure(8, hosts, 0, 5)  # imports, connections
    cases = []
    for count in counts:
        cases.append(await measure(count, hosts, WARM_UP_SECONDS, MEASURED_SECONDS))
        print(json.dumps(cases[-1]), file=sys.stderr, flush=True)
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=list(WORKERS))
    counts = parser.parse_args().workers
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        cases = asyncio.run(measure_all(counts))
    finally:
        ray.shutdown()
    last = cases[-1]
    least = min(case["pool_milliseconds_per_group"] for case in cases)
    bounds = {
        f"below_{MAX_MILLISECONDS}_ms": last["pool_milliseconds_per_group"] < MAX_MILLISECONDS,
        "flat": last["pool_milliseconds_per_group"] <= MAX_GROWTH * least,
        "efficient": last["efficiency"] >= MIN_EFFICIENCY,
    }
    details = {"passed": all(bounds.values()), "bounds": bounds, "hosts": HOSTS, "cases": cases}
    Result("pool_scale", last["pool_milliseconds_per_group"], "ms per group", "lower", details).publish()
    if not details["passed"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
