"""Starts the parts of a job on Ray, runs the controller on them, and ends every process it started.

Invariant: however a job ends (success, error, Ctrl-C), its actors and their engines are gone within
`TEARDOWN_SECONDS`, and its run directory holds a last state, a summary and a report. Learner ranks that die or hang are
replaced, and the job goes on from its last checkpoint (`orchestrator.recovery`).
"""

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray

from orchestrator.checkpoints import checkpoints_of
from orchestrator.commands import Mailbox
from orchestrator.control import Control, obey
from orchestrator.evaluation_job import run_evaluation
from orchestrator.job_state import JobState
from orchestrator.preflight import Prepared
from orchestrator.progress import Progress
from orchestrator.recovery import Attempts
from orchestrator.report import write_report
from orchestrator.reward_handle import RewardHandle
from orchestrator.run_directory import RunDirectory
from orchestrator.spec import JobSpec, Method
from orchestrator.storage.mirror import mirrored
from orchestrator.tracking.following import follow
from protocol.rollout import WorkerSettings
from rollout_workers.pool import RolloutPool

TEARDOWN_SECONDS = 5.0

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


async def _run(prepared: Prepared, run: RunDirectory, state: JobState, progress: Progress) -> None:
    spec = prepared.spec
    pool = RolloutPool(
        worker_settings(prepared),
        spec.rollout.limits,
        # On a Ray of the job's own as many as are wanted: they take turns on the CPUs there are.
        cpus_per_worker=0 if spec.cluster.address is None else 1,
        gpus_per_worker=spec.rollout.gpus,
        on_event=run.append_event,
    )
    reward = RewardHandle(spec, run.append_event) if spec.method is Method.REINFORCE else None
    control = Control(run)
    attempts = None
    if spec.method is not Method.EVALUATE:
        attempts = Attempts(prepared, run, state, progress, pool, reward.score if reward else None, control)
    obeying = asyncio.ensure_future(obey(Mailbox(run), run, pool, control))
    obeying.add_done_callback(lambda done: _show_deafness(done, run, progress))
    tracking = asyncio.ensure_future(follow(run, spec))
    starting = asyncio.ensure_future(pool.start(spec.rollout.workers))
    try:
        progress.phase("starting workers")
        if attempts is None:
            await run_evaluation(prepared, run, progress, pool, control, starting)
        else:
            await attempts.go(starting)
    finally:
        starting.cancel()
        obeying.cancel()
        tracking.cancel()
        learner = None if attempts is None else attempts.learner
        await end_all([part for part in (pool, learner, reward) if part is not None])
        await asyncio.wait([tracking])


def _show_deafness(obeying: asyncio.Future[None], run: RunDirectory, progress: Progress) -> None:
    """A job that hears no commands any more goes on, but not in silence."""
    if not obeying.cancelled() and (error := obeying.exception()) is not None:
        run.append_event("error", error=type(error).__name__, message=f"commands are not heard any more: {error}")
        progress.message(f"commands are not heard any more: {error}")


def run_job(
    prepared: Prepared, run: RunDirectory, progress: Progress, started: float, state: JobState | None = None
) -> dict[str, Any]:
    """Run a job to its end in this process.

    Args:
        started: `time.perf_counter()` when the job began, for its `seconds`.
        state: of a run that goes on from its last checkpoint; without it the job is new.

    Returns:
        The summary, which the run directory then holds too.

    Raises:
        Whatever ended the job early, after its state and report were written: KeyboardInterrupt, RolloutError,
        LearnerError, LedgerError, …; StorageError where all is done and could not be stored.
    """
    run.append_event("state", state="starting")
    with mirrored(run, prepared.spec) as stored:
        return _run_to_its_end(prepared, run, progress, started, state or JobState(), stored)


def _run_to_its_end(
    prepared: Prepared,
    run: RunDirectory,
    progress: Progress,
    started: float,
    state: JobState,
    stored: Callable[[], None],
) -> dict[str, Any]:
    """`stored` returns once all of the run is where the job stores it."""
    if prepared.data:
        run.append_event("data", **prepared.data)
    outcome = "failed"
    try:
        with run.written():
            with cluster(prepared.spec):
                asyncio.run(_run(prepared, run, state, progress))
            if prepared.spec.storage is not None:
                # Nothing holds a GPU any more.
                progress.phase("storing")
            stored()
        outcome = "succeeded"
    except KeyboardInterrupt:
        outcome = "cancelled"
        raise
    except BaseException as error:
        run.append_event("error", error=type(error).__name__, message=str(error)[:4000])
        raise
    finally:
        run.append_event("state", state=outcome)
        summary = summarise(prepared, run, outcome, state, time.perf_counter() - started)
        run.write_summary(summary)
        write_report(run)
    return summary


def summarise(prepared: Prepared, run: RunDirectory, outcome: str, state: JobState, seconds: float) -> dict[str, Any]:
    """The result of a job as one JSON object."""
    spec = prepared.spec
    summary: dict[str, Any] = {"name": spec.name, "state": outcome, "seed": spec.seed}
    best = checkpoints_of(run, spec).best()
    evaluations = run.evaluations()
    if evaluations:
        (_, baseline), (last, final) = evaluations[0], evaluations[-1]
        summary |= {
            "baseline_accuracy": baseline["accuracy"],
            # Of a job that ended before its first evaluation after the baseline, no accuracy is the final one.
            "final_accuracy": final["accuracy"] if last == spec.steps else None,
            "silence_accuracy": final["silence_accuracy"],
            # A run that an earlier version of Earshot began has none.
            "shuffled_accuracy": final.get("shuffled_accuracy"),
            "chance_accuracy": final["chance_accuracy"],
            "evaluation_questions": final["count"],
        }
    return summary | {
        "steps": len(run.metrics()),
        "seconds": round(seconds, 1),
        "base_seconds": prepared.base_seconds,
        "base_cached": prepared.base_cached,
        "restarts": sum(e["kind"] == "state" and e["state"] == "recovering" for e in run.events()),
        "questions": state.ledger.counts(),
        "best_checkpoint": None if best is None else str(checkpoints_of(run, spec).folder(best).resolve()),
        "run_dir": str(run.path.resolve()),
        **({} if spec.storage is None else {"stored_at": f"{spec.storage}/{run.path.name}"}),
    }
