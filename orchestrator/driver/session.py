"""A job's Ray session: start it, size its workers, end its actors."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray

from orchestrator.job.spec import JobSpec
from orchestrator.preflight.prepare import Prepared
from protocol.rollout import WorkerSettings


def worker_settings(prepared: Prepared) -> WorkerSettings:
    """What the rollout workers of a job start from."""
    spec = prepared.spec
    rollout = spec.rollout
    return WorkerSettings(
        model=prepared.model_folder,
        max_context=spec.model.max_context,
        max_concurrent=rollout.max_concurrent,
        dtype="auto" if rollout.gpus else spec.learner.dtype,
        cpu_kv_gib=rollout.cpu_kv_gib,
        gpu_memory_fraction=rollout.gpu_memory_fraction,
        threads=rollout.threads or max(1, (os.cpu_count() or 1) // rollout.workers),
        too_long=spec.model.too_long,
        whole_batches=spec.deterministic,
    )


@contextmanager
def cluster(spec: JobSpec) -> Iterator[None]:
    """A Ray to run on: the job's own on this machine, or the cluster it names."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    heard = signal.getsignal(signal.SIGTERM)
    if spec.cluster.address is not None:
        ray.init(address=spec.cluster.address, **quiet)
    else:
        # Logical CPUs: ranks and the reward actor take turns on the real ones.
        needed = spec.learner.ranks + 1
        ray.init(address="local", num_cpus=max(needed, os.cpu_count() or 1), include_dashboard=False, **quiet)
    if threading.current_thread() is threading.main_thread():
        # Ray put a handler of its own in its place, which ends the process in the middle of whatever it does.
        signal.signal(signal.SIGTERM, heard)
    try:
        yield
    finally:
        ray.shutdown()


async def end_all(parts: Sequence[Any]) -> None:
    """End the parts of a job, all at once, and never wait longer for them than the deadline."""
    ends = [asyncio.ensure_future(part.stop()) for part in parts]
    done, late = await asyncio.wait(ends, timeout=TEARDOWN_SECONDS)
    for end in late:
        end.cancel()
        _log.warning("a part of the job did not stop within %.0f s; its processes end with Ray", TEARDOWN_SECONDS)
    for end in done:
        if end.exception() is not None:
            _log.warning("a part of the job did not stop in order: %s", end.exception())


TEARDOWN_SECONDS = 5.0


_log = logging.getLogger(__name__)
