"""Start the parts of a job on Ray, run the training loop on them, and end every process that was started.

Invariant: however a job ends (success, error, Ctrl-C), its actors and their engines are gone within
`TEARDOWN_SECONDS`, and its run directory has a last state, a summary and a report. Learner ranks that die or hang are
replaced, and the job resumes from its last checkpoint (`orchestrator.driver.recovery`).
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
from orchestrator.driver.session import failing_after_start, ray_session, stop_all, worker_settings
from orchestrator.driver.summary import summarise
from orchestrator.job.spec import Method
from orchestrator.preflight.inputs import inputs_of, write_inputs
from orchestrator.preflight.prepare import Prepared
from orchestrator.run.directory import RunDirectory
from orchestrator.run.events import EventKind
from orchestrator.run.mailbox import Mailbox
from orchestrator.schemas.job_state import JobState
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
        # A Ray of the job's own starts any number of workers: they share the CPUs.
        cpus_per_worker=0 if spec.cluster.address is None else 1,
        gpus_per_worker=spec.rollout.gpus,
        on_event=run.append_event,
    )
    reward = RewardHandle(spec, run.append_event) if spec.method is Method.REINFORCE else None
    control = Control(run)
    supervisor = None
    if spec.method is not Method.EVALUATE:
        supervisor = LearnerSupervisor(prepared, run, state, progress, pool, reward.score if reward else None, control)
    commands = asyncio.ensure_future(run_commands(Mailbox(run), run, pool, control))
    commands.add_done_callback(lambda done: report_command_failure(done, run, progress))
    tracking = asyncio.ensure_future(follow(run, spec))
    starting = asyncio.ensure_future(pool.start(spec.rollout.workers))
    try:
        progress.phase("starting workers")
        if supervisor is None:
            await run_evaluation(prepared, run, progress, pool, control, starting)
        else:
            await supervisor.run(starting)
    finally:
        starting.cancel()
        commands.cancel()
        tracking.cancel()
        learner = None if supervisor is None else supervisor.learner
        await stop_all([part for part in (pool, learner, reward) if part is not None])
        if supervisor is not None:
            supervisor.remove_trial()
        await asyncio.wait([tracking])


def report_command_failure(commands: asyncio.Future[None], run: RunDirectory, progress: Progress) -> None:
    """Report that commands are no longer read; the job continues."""
    if not commands.cancelled() and (error := commands.exception()) is not None:
        run.append_event(EventKind.ERROR, error=type(error).__name__, message=f"commands are no longer read: {error}")
        progress.message(f"commands are no longer read: {error}")


def run_job(
    prepared: Prepared, run: RunDirectory, progress: Progress, started: float, state: RunState | None = None
) -> dict[str, Any]:
    """Run a job to its end in this process.

    Args:
        started: `time.perf_counter()` at the start of the job, for its `seconds`.
        state: the state of a run that resumes from its last checkpoint; default: a new job.

    Returns:
        The summary, which is also written to the run directory.

    Raises:
        KeyboardInterrupt, RolloutError, LearnerError, LedgerError, …: the error that ended the job early, after its
            state and report were written.
        JobFailedError: an InputError of one of its parts, which after the start is a failure.
        StorageError: the job is done but could not be stored.
    """
    if not run.inputs_file.is_file():
        write_inputs(run, inputs_of(prepared))
    run.append_event(EventKind.STATE, state=JobState.STARTING)
    with failing_after_start(), mirrored(run, prepared.spec) as stored:
        return _run_to_its_end(prepared, run, progress, started, state or RunState(), stored)


def _run_to_its_end(
    prepared: Prepared,
    run: RunDirectory,
    progress: Progress,
    started: float,
    state: RunState,
    stored: Callable[[], None],
) -> dict[str, Any]:
    """`stored` returns once all of the run is in the job's storage."""
    if prepared.data:
        run.append_event(EventKind.DATA, **prepared.data)
    outcome = JobState.FAILED
    try:
        with run.lock():
            with ray_session(prepared.spec):
                asyncio.run(_run(prepared, run, state, progress))
            if prepared.spec.storage is not None:
                # The GPUs are free by now.
                progress.phase("storing")
            stored()
        outcome = JobState.SUCCEEDED
    except KeyboardInterrupt:
        outcome = JobState.CANCELLED
        raise
    except BaseException as error:
        run.append_event(EventKind.ERROR, error=type(error).__name__, message=str(error))
        raise
    finally:
        run.append_event(EventKind.STATE, state=outcome)
        summary = summarise(prepared, run, outcome, state, time.perf_counter() - started)
        run.write_summary(summary)
        write_report(run)
    return summary
