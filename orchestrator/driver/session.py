"""A job's Ray session: start it, size its workers, stop its actors."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray

from audio_qa.errors import EarshotError, InputError, cause_of, shown
from orchestrator.cluster.ray_start import starting_on_loopback
from orchestrator.job.demand import shares_gpus
from orchestrator.job.sections.engine import engine_dtype
from orchestrator.job.spec import JobSpec
from orchestrator.preflight.prepare import Prepared
from protocol.rollout import WorkerSettings

TEARDOWN_SECONDS = 5.0

_log = logging.getLogger(__name__)


class ClusterUnreachableError(EarshotError):
    """The Ray cluster that a job names did not take it; nothing of the job was started."""


class JobFailedError(EarshotError):
    """A part of a job that has started raised an InputError: too late to be bad input of the user."""


@contextmanager
def failing_after_start() -> Iterator[None]:
    """Raise an InputError of the block as JobFailedError: bad input is found before a job starts."""
    try:
        yield
    except InputError as error:
        raise JobFailedError(f"{type(error).__name__}: {error}") from error


def worker_settings(prepared: Prepared) -> WorkerSettings:
    """Return the settings of a job's rollout workers."""
    spec = prepared.spec
    rollout = spec.rollout
    return WorkerSettings(
        model=prepared.model_folder,
        max_context=spec.model.max_context,
        max_concurrent=rollout.max_concurrent,
        dtype=engine_dtype(rollout, spec.learner.dtype),
        cpu_kv_gib=rollout.cpu_kv_gib,
        gpu_memory_fraction=rollout.gpu_memory_fraction,
        shares_gpu=shares_gpus(spec),
        group_size=rollout.group_size,
        tensor_parallel=rollout.tensor_parallel,
        threads=rollout.threads or max(1, (os.cpu_count() or 1) // rollout.workers),
        too_long=spec.model.too_long,
        whole_batches=spec.deterministic,
        engine=rollout.engine,
    )


@contextmanager
def ray_session(spec: JobSpec) -> Iterator[None]:
    """Connect to the cluster that the job names, or start a local Ray for it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    handler = signal.getsignal(signal.SIGTERM)
    if spec.cluster.address is not None:
        _connect(spec.cluster.address, quiet)
    else:
        # Logical CPUs: ranks and the reward actor share the real ones.
        cpus = max(spec.learner.ranks + 1, os.cpu_count() or 1)
        with starting_on_loopback():
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
    if threading.current_thread() is threading.main_thread():
        # Ray has replaced the handler with one that ends the process at once.
        signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        ray.shutdown()


def _connect(address: str, options: dict[str, Any]) -> None:
    """Connect to a cluster. Raises ClusterUnreachableError."""
    try:
        ray.init(address=address, **options)
    # Ray raises what it likes: RuntimeError for a node that is slow to answer, ValueError for an address.
    except Exception as error:
        ray.shutdown()
        raise ClusterUnreachableError(
            f"the Ray cluster at {shown(address)} was not reached: {cause_of(error)}"
        ) from error


async def stop_all(parts: Sequence[Any]) -> None:
    """Stop the parts of a job concurrently, waiting until the deadline at most."""
    stops = [asyncio.ensure_future(part.stop()) for part in parts]
    done, late = await asyncio.wait(stops, timeout=TEARDOWN_SECONDS)
    for stop in late:
        stop.cancel()
        _log.warning("a part of the job did not stop within %.0f s; its processes end with Ray", TEARDOWN_SECONDS)
    for stop in done:
        if stop.exception() is not None:
            _log.warning("a part of the job did not stop in order: %s", stop.exception())
