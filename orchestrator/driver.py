"""Starts the parts of a job on Ray, runs the controller on them, and ends every process it started.

Invariant: however a job ends (success, error, Ctrl-C), its actors and their engines are gone within
`TEARDOWN_SECONDS`, and its run directory holds a last state, a summary and a report.
"""

import asyncio
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray

from learner.group import LearnerGroup
from orchestrator.controller import Controller
from orchestrator.ledger import Ledger
from orchestrator.preflight import Prepared
from orchestrator.progress import Progress
from orchestrator.report import write_report
from orchestrator.run_directory import RunDirectory
from orchestrator.spec import JobSpec
from protocol.reward import Score
from protocol.rollout import Group, WorkerSettings
from reward.actor import RewardActor
from rollout_workers.pool import RolloutPool

TEARDOWN_SECONDS = 5.0
REWARD_SECONDS = 600.0

_log = logging.getLogger(__name__)


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
    if spec.cluster.address is not None:
        ray.init(address=spec.cluster.address, **quiet)
    else:
        # Logical CPUs: engines, ranks and the reward actor take turns on the real ones.
        needed = spec.rollout.workers + spec.learner.ranks + 1
        ray.init(address="local", num_cpus=max(needed, os.cpu_count() or 1), include_dashboard=False, **quiet)
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


class RewardHandle:
    """The reward actor as the controller calls it."""

    def __init__(self, spec: JobSpec) -> None:
        self._actor = ray.remote(RewardActor).options(num_cpus=1, max_restarts=0).remote(spec.reward)

    async def score(self, groups: list[Group]) -> list[tuple[Score, ...]]:
        async with asyncio.timeout(REWARD_SECONDS):
            return await self._actor.score.remote(groups)  # type: ignore[no-any-return]

    async def stop(self) -> None:
        try:
            await self._actor.close.remote()
        finally:
            ray.kill(self._actor)


async def _run(prepared: Prepared, run: RunDirectory, ledger: Ledger, progress: Progress) -> None:
    spec = prepared.spec
    pool = RolloutPool(worker_settings(prepared), cpus_per_worker=1, gpus_per_worker=spec.rollout.gpus)
    learner = LearnerGroup(spec.learner, too_long=spec.model.too_long, gpus_per_rank=1 if spec.rollout.gpus else 0)
    reward = RewardHandle(spec)
    controller = Controller(spec, prepared.train, prepared.held_out, pool, learner, reward.score, run, progress, ledger)
    starting = asyncio.ensure_future(pool.start(spec.rollout.workers))
    try:
        progress.phase("starting workers")
        await learner.start()
        folder = prepared.model_folder
        if spec.warm_start is not None:
            # The engines load while the learner warms up; they get its weights once both are done.
            await controller.warm_start(folder, spec.warm_start)
            folder = str(run.checkpoint(0))
            await learner.save(folder)
            run.append_event("checkpoint", step=0, path=folder)
            progress.phase("starting workers")
        for status in await starting:
            run.append_event("worker_started", worker=status.worker, node=status.node, pid=status.pid)
        if spec.warm_start is not None:
            await pool.update(await learner.publish(learner.weight_version))
        run.append_event("state", state="running")
        await controller.reinforce(folder)
    finally:
        starting.cancel()
        await end_all([pool, learner, reward])


def run_job(prepared: Prepared, run: RunDirectory, progress: Progress, started: float) -> dict[str, Any]:
    """Run a job to its end in this process.

    Args:
        started: `time.perf_counter()` when the job began, for its `seconds`.

    Returns:
        The summary, which the run directory then holds too.

    Raises:
        Whatever ended the job early, after its state and report were written: KeyboardInterrupt, RolloutError,
        LearnerError, LedgerError, …
    """
    run.append_event("state", state="starting")
    state, ledger = "failed", Ledger()
    try:
        with cluster(prepared.spec):
            asyncio.run(_run(prepared, run, ledger, progress))
        state = "succeeded"
    except KeyboardInterrupt:
        state = "cancelled"
        raise
    except BaseException as error:
        run.append_event("error", error=type(error).__name__, message=str(error)[:4000])
        raise
    finally:
        run.append_event("state", state=state)
        summary = summarise(prepared, run, state, ledger, time.perf_counter() - started)
        run.write_summary(summary)
        write_report(run)
    return summary


def summarise(prepared: Prepared, run: RunDirectory, state: str, ledger: Ledger, seconds: float) -> dict[str, Any]:
    """The result of a job as one JSON object."""
    spec = prepared.spec
    summary: dict[str, Any] = {"name": spec.name, "state": state, "seed": spec.seed}
    evaluations = run.evaluations()
    if evaluations:
        (_, baseline), (last, final) = evaluations[0], evaluations[-1]
        summary |= {
            "baseline_accuracy": baseline["accuracy"],
            # Of a job that ended before its first evaluation after the baseline, no accuracy is the final one.
            "final_accuracy": final["accuracy"] if last == spec.steps else None,
            "silence_accuracy": final["silence_accuracy"],
            "chance_accuracy": final["chance_accuracy"],
            "evaluation_questions": final["count"],
        }
    return summary | {
        "steps": len(run.metrics()),
        "seconds": round(seconds, 1),
        "base_seconds": prepared.base_seconds,
        "base_cached": prepared.base_cached,
        "questions": ledger.counts(),
        "run_dir": str(run.path.resolve()),
    }
