"""What does a worker cost the pool, from 1 to 256 of them? On simulated engines that answer after a while.

The pool is the product's own and so are its calls to Ray actors; only the engines are simulated. As 256 processes do
not fit on two cores, each actor hosts many workers. For every number of workers the pool is given more groups than they
can answer in the time. Measured are the CPU time of the pool's own thread for each group (from the request to the
answer, Ray's serialisation on this side included), the memory that the pool's process takes, and the efficiency: the
work that the groups answered in the middle of the run stand for, over what all workers could do in that time.

The value is the time for a group with 256 workers; `passed` says whether that is below 1 ms and no more than 1.5 times
the least of all numbers of workers, and the throughput with 256 at least 95 % of the ideal one.
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
from typing import Any, Self

import ray

from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from benchmarks.result import Result
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
LONGEST_MILLISECONDS, LEAST_EFFICIENCY, FLAT = 1.0, 0.95, 1.5


class Host:
    """Many simulated workers in one process."""

    def __init__(self) -> None:
        self._workers: dict[str, SimulatedWorker] = {}

    async def call(self, called: str, *arguments: Any) -> Any:
        name, _, method = called.partition(".")
        if name not in self._workers:
            self._workers[name] = SimulatedWorker(name, PACE)
        return await getattr(self._workers[name], method)(*arguments)


class HostedHandle(ActorHandle):
    """One of the workers that an actor hosts."""

    def __init__(self, host: Any, name: str) -> None:
        super().__init__(host)
        self._name = name

    def _begin(self, method: str, *arguments: Any) -> Any:
        if method == "__ray_ready__":
            return super()._begin(method)
        return self._actor.call.remote(f"{self._name}.{method}", *arguments)

    async def start(self) -> WorkerStatus:
        """Its process is others' too, and not to be remembered for `kill`."""
        return await self._call("start")  # type: ignore[no-any-return]

    def kill(self) -> None:
        """Likewise."""
        self._killed = True


def requests(count: int) -> list[RolloutRequest]:
    """Questions of usual length."""
    text, choices = "Which of these sounds is heard first in the recording?", ("a bell", "a dog", "a car", "rain")
    return [
        RolloutRequest(
            Question("scale", i, str(i), f"clips/{i:06}.wav", text, choices, "a dog"), PromptTemplate.ANSWER, i
        )
        for i in range(count)
    ]


def resident_mib() -> float:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


async def measure(workers: int, hosts: list[Any], warm_up: float, seconds: float) -> dict[str, Any]:
    """The pool with so many workers, all of them busy."""
    gc.collect()
    memory = resident_mib()
    pool = RolloutPool(
        WorkerSettings("model", 1024, max_concurrent=PACE.groups_at_once * GROUP.group_size),
        RolloutLimits(),
        make_worker=lambda name: HostedHandle(hosts[int(name.rpartition("-")[2]) % len(hosts)], name),
    )
    await pool.start(workers)
    await pool.serving(workers)
    slots = workers * PACE.groups_at_once
    asked = requests(int(slots * (2 + (warm_up + seconds) / PACE.group_seconds)))
    answered: list[float] = []

    def note(request: RolloutRequest, future: asyncio.Future[Answer]) -> None:
        if not future.cancelled():
            answered.append(PACE.seconds_for(request))

    with Clock() as asking:
        futures = [pool.submit(request, GROUP) for request in asked]
    for request, future in zip(asked, futures, strict=True):
        future.add_done_callback(partial(note, request))
    await asyncio.sleep(warm_up)
    before = len(answered)
    with Clock() as answering:
        await asyncio.sleep(seconds)
    done = len(answered) - before
    memory = resident_mib() - memory
    assert len(answered) < len(asked) - slots, "the workers ran out of work"
    work = sum(answered[before : before + done])
    for future in futures:
        future.cancel()
    await pool.stop()
    return {
        "workers": workers,
        "groups": done,
        "pool_milliseconds_per_group": round(1000 * (asking.thread / len(asked) + answering.thread / done), 3),
        "process_milliseconds_per_group": round(1000 * (asking.process / len(asked) + answering.process / done), 3),
        "efficiency": round(work / (slots * answering.seconds), 4),
        "groups_per_second": round(done / answering.seconds, 1),
        "memory_mib": round(memory, 1),
    }


class Clock:
    """Seconds, and those in which this thread and this process had a CPU."""

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
        f"below_{LONGEST_MILLISECONDS}_ms": last["pool_milliseconds_per_group"] < LONGEST_MILLISECONDS,
        "flat": last["pool_milliseconds_per_group"] <= FLAT * least,
        "efficient": last["efficiency"] >= LEAST_EFFICIENCY,
    }
    details = {"passed": all(bounds.values()), "bounds": bounds, "hosts": HOSTS, "cases": cases}
    Result("pool_scale", last["pool_milliseconds_per_group"], "ms per group", "lower", details).publish()
    if not details["passed"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
