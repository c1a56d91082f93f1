"""Starts the parts of a job on Ray, runs the controller on them, and ends every process it started.

Invariant: however a job ends (success, error, Ctrl-C), its actors and their engines are gone within
`TEARDOWN_SECONDS`, and its run directory holds a last state, a summary and a report. Learner ranks that die or hang are
replaced, and the job goes on from its last checkpoint (`orchestrator.driver.recovery`).
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from orchestrator.display.progress import Progress
from orchestrator.display.report import write_report
from orchestrator.driver.evaluation import run_evaluation
from orchestrator.driver.recovery import LearnerSupervisor
from orchestrator.driver.reward_handle import RewardHandle
from orchestrator.driver.session import cluster, end_all, worker_settings
from orchestrator.driver.summary import summarise
from orchestrator.job.spec import Method
from orchestrator.preflight.prepare import Prepared
from orchestrator.run.commands import Mailbox
from orchestrator.run.directory import RunDirectory
from orchestrator.storage.mirror import mirrored
from orchestrator.tracking.following import follow
from orchestrator.training.control import Control, run_commands
from orchestrator.training.state import RunState
from rollout_workers.pool.pool import RolloutPool


async def _run(prepared: Prepared, run: RunDirectory, state: RunState, progress: Progress) -> None:
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
        attempts = LearnerSupervisor(prepared, run, state, progress, pool, reward.score if reward else None, control)
    obeying = asyncio.ensure_future(run_commands(Mailbox(run), run, pool, control))
    obeying.add_done_callback(lambda done: report_command_failure(done, run, progress))
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


def report_command_failure(obeying: asyncio.Future[None], run: RunDirectory, progress: Progress) -> None:
    """A job that hears no commands any more goes on, but not in silence."""
    if not obeying.cancelled() and (error := obeying.exception()) is not None:
        run.append_event("error", error=type(error).__name__, message=f"commands are not heard any more: {error}")
        progress.message(f"commands are not heard any more: {error}")


def run_job(
    prepared: Prepared, run: RunDirectory, progress: Progress, started: float, state: RunState | None = None
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
        return _run_to_its_end(prepared, run, progress, started, state or RunState(), stored)


def _run_to_its_end(
    prepared: Prepared,
    run: RunDirectory,
    progress: Progress,
    started: float,
    state: RunState,
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
