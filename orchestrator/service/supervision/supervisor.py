"""The service's loop: starts what is to run, follows what runs, and does what is due when a driver has ended.

Invariants:
- Before a driver is started its submission id is in the store, and the id names job and attempt. So whoever finds the
  job again, at whatever moment the service was killed, asks for the very same driver, of which there is never a second.
- What the loop knows it reads from the store, the cluster and the run directories, each time anew: nothing is lost with
  its memory, and a database or cluster that is away is waited for.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from orchestrator.cluster.inventory import ClusterUnavailableError
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import dump_spec
from orchestrator.run.records import RunDirectoryError, replace_file
from orchestrator.schemas.job_state import ACTIVE, ALLOWED, JobState
from orchestrator.service.observability import counters
from orchestrator.service.store.records import JobRecord
from orchestrator.service.store.store import StaleStateError, Store, StoreUnavailableError
from orchestrator.service.supervision.endings import ending_of
from orchestrator.service.supervision.limits import Capacity, Limits
from orchestrator.service.supervision.preemption import Preemption
from orchestrator.service.supervision.run_view import RunView, RunWatch
from orchestrator.service.supervision.runner import Driver, DriverState, Runner
from orchestrator.service.supervision.schedule import decide

_ROUND_SECONDS = 0.5
_CAPACITY_SECONDS = 5.0
_FOLLOWED = {state.value: state for state in (JobState.RUNNING, JobState.PAUSED, JobState.RECOVERING)}
"""States that a driver tells of itself."""

_log = logging.getLogger(__name__)


class Supervisor:
    """Of the jobs in a store; one at a time may be at work on a store."""

    def __init__(
        self,
        store: Store,
        runner: Runner,
        limits: Limits,
        *,
        preemption: bool = False,
        storage: str | None = None,
    ) -> None:
        """`storage`: a URL under which the jobs' runs are stored, too."""
        self._store, self._runner, self._limits, self._preempts = store, runner, limits, preemption
        self._storage = storage
        self._preemption = Preemption(runner.stop)
        self._watches: dict[str, RunWatch] = {}
        self.capacity: Capacity | None = None
        """Of the cluster, as it last told; None before it first answered."""
        self._asked = 0.0
        """When the capacity was asked for, by the monotonic clock."""
        self.trouble: str | None = "the cluster has not answered yet"
        """Why no job can be looked after now; None where all is well."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                with counters.LOOP_SECONDS.time():
                    await self.round()
                self._note(None)
            except StoreUnavailableError as error:
                self._note("database", error)
            except ClusterUnavailableError as error:
                self._note("cluster", error)
            await asyncio.sleep(_ROUND_SECONDS)

    async def round(self) -> None:
        """Once over all jobs. Raises StoreUnavailableError, ClusterUnavailableError; the next round makes up for it."""
        for job in await self._store.unended():
            if job.state in ACTIVE:
                await self._guarded(job, self._look_after)
        if self.capacity is None or time.monotonic() - self._asked > _CAPACITY_SECONDS:
            self.capacity = await self._runner.capacity()
            self._asked = time.monotonic()
        await self._schedule(await self._store.unended(), self.capacity)

    async def _guarded(self, job: JobRecord, action: Callable[[JobRecord], Awaitable[None]]) -> None:
        """What is wrong with one job must not keep the others from being looked after."""
        try:
            await action(job)
        except (StoreUnavailableError, ClusterUnavailableError):
            raise
        except StaleStateError as error:
            _log.info("%s: was changed meanwhile: %s", job.id, error)
        except Exception:
            counters.LOOP_FAILURES.labels("job").inc()
            _log.exception("job %s could not be looked after", job.id)

    async def _look_after(self, job: JobRecord) -> None:
        if job.not_before is not None:
            await self._between_drivers(job, job.not_before)
            return
        assert job.submission_id is not None
        watch = self._watches.setdefault(job.id, RunWatch(Path(job.run_dir)))
        driver = await self._runner.look(job.submission_id)
        view = await _view(watch, job)
        if driver.state is DriverState.UNKNOWN and view.submission_id == job.submission_id:
            # Gone with its cluster, or begun between the two looks: the cluster knows by now.
            driver = await self._runner.look(job.submission_id)
        if driver.state is DriverState.UNKNOWN and view.submission_id != job.submission_id:
            # The service was killed, or the cluster away, before it could be started.
            await self._launch(job)
        elif driver.state in (DriverState.PENDING, DriverState.RUNNING):
            await self._follow(job, job.submission_id, view)
        else:
            await self._end(job, driver, view, watch)

    async def _between_drivers(self, job: JobRecord, again: datetime) -> None:
        """A job whose driver has died and is to be replaced."""
        if job.cancel_requested_at is not None:
            await self._store.transition(job.id, job.state, JobState.CANCELLED, job.cause, not_before=None)
        elif job.preempt_requested_at is not None:
            fields = {"not_before": None, "preempt_requested_at": None, "submission_id": None}
            await self._store.transition(job.id, job.state, JobState.QUEUED, job.cause, **fields)
        elif datetime.now(UTC) >= again:
            await self._begin(job)

    async def _begin(self, job: JobRecord) -> None:
        await self._launch(await self._store.begin_attempt(job))

    async def _launch(self, job: JobRecord) -> None:
        assert job.submission_id is not None
        try:
            await asyncio.to_thread(_make_run_directory, job, self._storage)
        except (OSError, ValidationError) as error:
            why = "its specification is not valid any more" if isinstance(error, ValueError) else error.strerror
            cause = f"its run directory {job.run_dir} cannot be made: {why}"
            await self._store.transition(job.id, job.state, JobState.FAILED, cause)
            return
        _log.info("starting driver %s of job %s", job.submission_id, job.id)
        await self._runner.start(job.submission_id, Path(job.run_dir))
        counters.DRIVERS_STARTED.inc()

    async def _follow(self, job: JobRecord, submission_id: str, view: RunView) -> None:
        """A driver that runs."""
        if job.cancel_requested_at is not None:
            await self._runner.stop(submission_id)
            return
        told = _FOLLOWED.get(view.state or "") if view.submission_id == submission_id else None
        if told is not None and told is not job.state and told in ALLOWED[job.state]:
            job = await self._store.transition(job.id, job.state, told, job.cause if job.preempt_requested_at else None)
        if job.preempt_requested_at is not None:
            await self._preemption.advance(job, view)

    async def _end(self, job: JobRecord, driver: Driver, view: RunView, watch: RunWatch) -> None:
        """A driver that has ended."""
        assert job.submission_id is not None
        own = view if view.submission_id == job.submission_id else RunView()
        last_lines = await asyncio.to_thread(watch.last_lines)
        ending = ending_of(job, driver, own, last_lines, datetime.now(UTC))
        await self._store.transition(job.id, job.state, ending.to, ending.cause, **ending.fields)
        _log.info("job %s is %s%s", job.id, ending.to, f": {ending.cause.splitlines()[0]}" if ending.cause else "")
        self._preemption.forget(job.submission_id)
        del self._watches[job.id]
        if ending.to is JobState.RECOVERING:
            counters.DRIVER_RESTARTS.inc()

    async def _schedule(self, jobs: tuple[JobRecord, ...], capacity: Capacity) -> None:
        decision = decide(jobs, self._limits, capacity.gpus, preemption=self._preempts)
        for job in decision.start:
            await self._guarded(job, self._begin)
        for victim, job in decision.preempt:
            cause = f"gives way to job {job.id} of priority {job.priority}"
            await self._store.update(victim.id, preempt_requested_at=datetime.now(UTC), cause=cause)
            counters.PREEMPTIONS.inc()
            _log.info("job %s %s", victim.id, cause)

    def _note(self, away: str | None, error: Exception | None = None) -> None:
        """How a round went; what stays the same is logged once."""
        if away is not None:
            counters.LOOP_FAILURES.labels(away).inc()
        trouble = None if away is None else f"the {away} is away"
        if trouble == self.trouble:
            return
        if trouble is None:
            _log.info("jobs are looked after now")
        else:
            _log.warning("%s; jobs are looked after once it is back: %s", trouble, error)
        self.trouble = trouble


async def _view(watch: RunWatch, job: JobRecord) -> RunView:
    try:
        return await asyncio.to_thread(watch.read)
    except RunDirectoryError as error:
        counters.LOOP_FAILURES.labels("job").inc()
        _log.error("job %s: %s", job.id, error)
        return RunView()


def _make_run_directory(job: JobRecord, storage: str | None) -> None:
    folder = Path(job.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "job.yaml").exists():  # of an earlier attempt
        return
    spec = JobSpec.model_validate(job.spec)
    # The driver is started on the cluster and finds it by itself, whatever address it has then.
    cluster = spec.cluster.model_copy(update={"address": "auto"})
    replace_file(folder / "job.yaml", dump_spec(spec.model_copy(update={"cluster": cluster, "storage": storage})))
