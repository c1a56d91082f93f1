"""Start the parts of a job on Ray, run the training loop on them, and end every process that was started.

Invariant: however a job ends (success, error, Ctrl-C), its actors and their engines are gone within
`TEARDOWN_SECONDS`, and its run directory has a last state, a summary and a report. Learner ranks that die or hang are
replaced, and the job resumes from its last checkpoint (`orchestrator.driver.recovery`).
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.display.progress import Progress
from orchestrator.display.report import write_report
from orchestrator.driver.evaluation import run_evaluation
from orchestrator.driver.recovery import LearnerSupervisor
from orchestrator.driver.reward_handle import RewardHandle
from orchestrator.driver.room import Room
from orchestrator.driver.session import failing_after_start, ray_session, stop_all, worker_settings
from orchestrator.driver.summary import summarise
from orchestrator.job.demand import cpus_per_worker, gpus_per_worker, most_workers
from orchestrator.job.spec import Method
from orchestrator.preflight.inputs import inputs_of, write_inputs
from orchestrator.preflight.prepare import Prepared
from orchestrator.run.commands import CommandKind
from orchestrator.run.directory import RunDirectory
from orchestrator.run.events import EventKind
from orchestrator.run.history import RunHistory, history_of
from orchestrator.run.mailbox import Mailbox, settle
from orchestrator.run.records import RunDirectoryError
from orchestrator.schemas.job_state import JobState
from orchestrator.storage.mirror import mirrored
from orchestrator.tracking.following import follow
from orchestrator.training.control import CommandRunner, Control
from orchestrator.training.state import RunState
from rollout_workers.pool.pool import RolloutPool


async def _run(
    prepared: Prepared, run: RunDirectory, state: RunState, progress: Progress, earlier: RunHistory | None
) -> None:
    """`earlier` is the run as an earlier driver of the same job left it: what was requested then holds."""
    spec = prepared.spec

    def place_worker(slot: int, others: Sequence[int]) -> Any:
        return room.place_worker(slot, others)

    pool = RolloutPool(
        worker_settings(prepared),
        spec.rollout.limits,
        cpus_per_worker=cpus_per_worker(spec),
        gpus_per_worker=gpus_per_worker(spec),
        on_event=run.append_event,
        place=place_worker,
    )
    room = Room(pool, run.append_event)
    reward = RewardHandle(spec, run.append_event, room=room) if spec.method is Method.REINFORCE else None
    control = Control(run, earlier)
    if (most := most_workers(spec)) is not None:
        control.limit_workers(most)
    supervisor = None
    if spec.method is Method.EVALUATE:
        control.refuse(CommandKind.CHECKPOINT, "a job that only evaluates writes no checkpoints")
    else:
        supervisor = LearnerSupervisor(
            prepared, run, state, progress, pool, reward.score if reward else None, control, room
        )
    mailbox = Mailbox(run)
    runner = CommandRunner(mailbox, run, pool, control, mailbox.take_first())
    # Before the first worker is requested: what was sent until now decides how many there are.
    runner.carry_out()
    wanted = spec.rollout.workers if control.requested_workers is None else control.requested_workers
    pool.scale(wanted, "the job starts")
    commands = asyncio.ensure_future(runner.run())
    tracking = asyncio.ensure_future(follow(run, spec))
    rewarding = asyncio.ensure_future(reward.wait_for_room() if reward is not None else asyncio.sleep(0))
    starting = asyncio.ensure_future(pool.wait_started())
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
        rewarding.cancel()
        learner = None if supervisor is None else supervisor.learner
        await stop_all([part for part in (pool, learner, reward) if part is not None])
        if supervisor is not None:
            supervisor.remove_trial()
        await asyncio.wait([tracking, rewarding])


def run_job(
    prepared: Prepared,
    run: RunDirectory,
    progress: Progress,
    started: float,
    state: RunState | None = None,
    *,
    restartable: bool = False,
) -> dict[str, Any]:
    """Run a job to its end in this process.

    Args:
        started: `time.perf_counter()` at the start of the job, for its `seconds`.
        state: the state of a run that resumes from its last checkpoint; default: a new job.
        restartable: the service runs the job, and starts another driver if this one is lost: commands hold over its
            end, and the service settles those that are left.

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
    if not restartable:
        settle(run, "the process that ran the job ended before it carried this out")
    run.append_event(EventKind.STATE, state=JobState.STARTING)
    earlier = history_of(run.events()) if restartable else None
    try:
        with failing_after_start(), mirrored(run, prepared.spec) as stored:
            return _run_to_its_end(prepared, run, progress, started, state or RunState(), earlier, stored)
    finally:
        if not restartable:
            # Another process that resumes the run by now has settled them, or will.
            with contextlib.suppress(RunDirectoryError):
                settle(run, "the job ended before it carried this out")


def _run_to_its_end(
    prepared: Prepared,
    run: RunDirectory,
    progress: Progress,
    started: float,
    state: RunState,
    earlier: RunHistory | None,
    stored: Callable[[], None],
) -> dict[str, Any]:
    """`stored` returns once all of the run is in the job's storage."""
    if prepared.data:
        run.append_event(EventKind.DATA, **prepared.data)
    outcome = JobState.FAILED
    try:
        with run.lock():
            with ray_session(prepared.spec):
                asyncio.run(_run(prepared, run, state, progress, earlier))
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
