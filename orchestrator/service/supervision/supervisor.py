"""The service's controller loop: start jobs, follow running ones, and settle those whose driver has ended.

Invariants:
- The submission id of a driver is stored before the driver is started, and names job and attempt. Wherever the service
  was killed, the next one requests the same driver, so there is never a second one.
- All state is read from the store, the cluster and the run directories in every round: nothing is lost with the
  process, and an unavailable database or cluster is waited for.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from orchestrator.cluster.inventory import ClusterUnavailableError
from orchestrator.job.allowed import Allowed
from orchestrator.job.spec_file import SpecError, dump_spec, parse_spec
from orchestrator.run.files import ALLOWED as ALLOWED_FILE
from orchestrator.run.files import JOB
from orchestrator.run.history import RunHistory
from orchestrator.run.records import RunDirectoryError, replace_file
from orchestrator.schemas.job_state import ALLOWED, ENDED, JobState
from orchestrator.service.observability import counters
from orchestrator.service.store.records import JobRecord, QueuedJob
from orchestrator.service.store.store import StaleStateError, Store, StoreUnavailableError
from orchestrator.service.supervision.endings import ending_of
from orchestrator.service.supervision.limits import Capacity, LimitReachedError, Limits
from orchestrator.service.supervision.preemption import Preemption
from orchestrator.service.supervision.run_watch import RunWatch
from orchestrator.service.supervision.runner import Driver, DriverState, Runner
from orchestrator.service.supervision.schedule import JobSchedule, schedule_of
from orchestrator.service.supervision.settlement import Settlement
from orchestrator.service.supervision.waiting import Situation
from orchestrator.service.telemetry.file_threads import FilesUnavailableError, FileThreads

_ROUND_SECONDS = 0.5
_CAPACITY_SECONDS = 5.0
_FILE_SECONDS = 5.0
"""Longest wait for the files of one run: a mount that hangs must not delay the other jobs."""
_FOLLOWED = {state.value: state for state in (JobState.RUNNING, JobState.PAUSED, JobState.RECOVERING)}
"""States that a driver reports."""

Job = TypeVar("Job", JobRecord, QueuedJob)

_log = logging.getLogger(__name__)


class Supervisor:
    """Runs the jobs of a store. At most one supervisor may work on a store."""

    def __init__(
        self,
        store: Store,
        runner: Runner,
        limits: Limits,
        *,
        preemption: bool = False,
        storage: str | None = None,
        allowed: Allowed | None = None,
    ) -> None:
        """
        Args:
            storage: URL under which runs are stored; None keeps them locally only.
            allowed: what jobs may read and call, which their drivers enforce; None does not limit them.
        """
        self._store, self._runner, self._limits, self._preempts = store, runner, limits, preemption
        self._storage, self._allowed = storage, allowed
        self._files = FileThreads(_FILE_SECONDS)
        self._preemption = Preemption(runner.stop, self._files)
        self._settlement = Settlement(self._files)
        self._watches: dict[str, RunWatch] = {}
        self.capacity: Capacity | None = None
        """Total resources of the cluster; None before its first answer."""
        self._capacity_at = 0.0
        """Monotonic time of the last capacity query."""
        self.trouble: str | None = "the cluster has not answered yet"
        """Why jobs cannot be supervised now; None if they can."""

    def situation(self) -> Situation:
        """Return what jobs are scheduled by now."""
        return Situation(self._limits, self._cluster_gpus, self._preempts, self.trouble)

    @property
    def _cluster_gpus(self) -> float:
        return math.inf if self.capacity is None else self.capacity.gpus

    async def run(self) -> None:
        """Run the loop until cancelled."""
        while True:
            try:
                with counters.LOOP_SECONDS.time():
                    await self.round()
                self._record_outcome(None)
            except StoreUnavailableError as error:
                self._record_outcome("database", error)
            except ClusterUnavailableError as error:
                self._record_outcome("cluster", error)
            await asyncio.sleep(_ROUND_SECONDS)

    async def round(self) -> None:
        """Handle all jobs once. Raises StoreUnavailableError, ClusterUnavailableError; the next round catches up."""
        active = await self._store.active()
        await self._settlement.advance({job.id for job in active})
        for job in active:
            await self._isolated(job, self._advance)
        if self.capacity is None or time.monotonic() - self._capacity_at > _CAPACITY_SECONDS:
            self.capacity = await self._runner.capacity()
            self._capacity_at = time.monotonic()
        await self._schedule(self.capacity)

    async def _isolated(self, job: Job, action: Callable[[Job], Awaitable[None]]) -> None:
        """Run an action so that an error in one job does not affect the others."""
        try:
            await action(job)
        except (StoreUnavailableError, ClusterUnavailableError):
            raise
        except (StaleStateError, LimitReachedError) as error:
            _log.info("job %s was changed concurrently: %s", job.id, error)
        except FilesUnavailableError as error:
            counters.LOOP_FAILURES.labels("job").inc()
            _log.warning("job %s is supervised once its files can be read: %s", job.id, error)
        except Exception:
            counters.LOOP_FAILURES.labels("job").inc()
            _log.exception("job %s could not be supervised", job.id)

    async def _advance(self, job: JobRecord) -> None:
        if job.not_before is not None:
            await self._between_drivers(job, job.not_before)
            return
        assert job.submission_id is not None
        watch = self._watches.setdefault(job.id, RunWatch(Path(job.run_dir)))
        driver = await self._runner.status(job.submission_id)
        history = await _history_of(self._files, watch, job)
        if driver.state is DriverState.UNKNOWN and history.submission_id == job.submission_id:
            # Lost with its cluster, or started between the two queries: the cluster knows by now.
            driver = await self._runner.status(job.submission_id)
        if driver.state is DriverState.UNKNOWN and history.submission_id != job.submission_id:
            # The service was killed, or the cluster unavailable, before the driver was started.
            await self._launch(job)
        elif driver.state in (DriverState.PENDING, DriverState.RUNNING):
            await self._follow(job, job.submission_id, history)
        else:
            await self._end(job, driver, history, watch)

    async def _between_drivers(self, job: JobRecord, again: datetime) -> None:
        """Advance a job whose driver has died and will be replaced."""
        if job.cancel_requested_at is not None:
            await self._store.transition(job.id, job.state, JobState.CANCELLED, job.cause, not_before=None)
            await self._settlement.add(job, JobState.CANCELLED)
        elif job.preempt_requested_at is not None:
            fields = {"not_before": None, "preempt_requested_at": None, "submission_id": None}
            await self._store.transition(job.id, job.state, JobState.QUEUED, job.cause, **fields)
        elif datetime.now(UTC) >= again:
            await self._start_attempt(job)

    async def _start_attempt(self, job: JobRecord) -> None:
        await self._launch(await self._store.begin_attempt(job))

    async def _launch(self, job: JobRecord) -> None:
        assert job.submission_id is not None
        try:
            await self._files.within(Path(job.run_dir), _make_run_directory, job, self._storage, self._allowed)
        except (OSError, SpecError) as error:
            if isinstance(error, OSError):
                cause = f"its run directory {job.run_dir} cannot be created: {error.strerror}"
            else:
                cause = f"this version of Earshot cannot run it ({error}); submit a new one"
            await self._store.transition(job.id, job.state, JobState.FAILED, cause)
            await self._settlement.add(job, JobState.FAILED)
            return
        _log.info("starting driver %s of job %s", job.submission_id, job.id)
        await self._runner.start(job.submission_id, Path(job.run_dir))
        counters.DRIVERS_STARTED.inc()

    async def _follow(self, job: JobRecord, submission_id: str, history: RunHistory) -> None:
        """Advance a job whose driver is running."""
        if job.cancel_requested_at is not None:
            await self._runner.stop(submission_id)
            return
        reported = _FOLLOWED.get(history.state or "") if history.submission_id == submission_id else None
        if reported is not None and reported is not job.state and reported in ALLOWED[job.state]:
            cause = job.cause if job.preempt_requested_at else None
            job = await self._store.transition(job.id, job.state, reported, cause)
        if job.preempt_requested_at is not None:
            await self._preemption.advance(job, history)

    async def _end(self, job: JobRecord, driver: Driver, history: RunHistory, watch: RunWatch) -> None:
        """Settle a job whose driver has ended."""
        assert job.submission_id is not None
        own = history if history.submission_id == job.submission_id else RunHistory()
        last_lines = await self._files.within(Path(job.run_dir), watch.last_lines)
        ending = ending_of(job, driver, own, last_lines, datetime.now(UTC))
        ended = ending.to in ENDED
        if ended:
            # A service that is killed after the next line does not look at the job again.
            await self._settlement.add(job, ending.to)
        await self._store.transition(job.id, job.state, ending.to, ending.cause, **ending.fields)
        if ended:
            # What was sent in between by a request that still found the job running.
            await self._settlement.add(job, ending.to)
        _log.info("job %s is %s%s", job.id, ending.to, f": {ending.cause.splitlines()[0]}" if ending.cause else "")
        self._preemption.forget(job.submission_id)
        del self._watches[job.id]
        if ending.to is JobState.RECOVERING:
            counters.DRIVER_RESTARTS.inc()

    async def _schedule(self, capacity: Capacity) -> None:
        schedule = await schedule_of(self._store, self._limits, capacity.gpus, preemption=self._preempts)
        for job in schedule.start:
            await self._isolated(job, self._start_queued)
        for victim, winner in schedule.preempt:
            await self._isolated(victim, partial(self._preempt, winner))

    async def _start_queued(self, job: QueuedJob) -> None:
        def check(job: JobRecord, active: Sequence[JobRecord]) -> None:
            # Another one may have grown since the schedule was made.
            if not JobSchedule(active, self._limits, self._cluster_gpus, preemption=False).has_room(job):
                raise LimitReachedError(f"job {job.id} does not fit any more beside those that run")

        await self._launch(await self._store.begin_attempt(job, check))

    async def _preempt(self, winner: QueuedJob, victim: JobRecord) -> None:
        """Ask a job to give way. Its owner must not learn about jobs of others."""
        which = f"job {winner.id}" if winner.owner == victim.owner else "a job"
        cause = f"gives way to {which} of priority {winner.priority}"
        await self._store.update(victim.id, preempt_requested_at=datetime.now(UTC), cause=cause)
        counters.PREEMPTIONS.inc()
        _log.info("job %s gives way to job %s of priority %d", victim.id, winner.id, winner.priority)

    def _record_outcome(self, away: str | None, error: Exception | None = None) -> None:
        """Record the outcome of a round; only changes are logged."""
        if away is not None:
            counters.LOOP_FAILURES.labels(away).inc()
        before, self.trouble = self.trouble, None if away is None else f"the {away} is unavailable"
        if isinstance(error, ClusterUnavailableError):
            self.trouble = f"{self.trouble}: {error.summary}"
        if away is None and before is not None:
            _log.info("jobs are supervised again")
        elif away is not None and not (before or "").startswith(f"the {away} is unavailable"):
            _log.warning("the %s is unavailable; jobs are supervised once it is back: %s", away, error)


async def _history_of(files: FileThreads, watch: RunWatch, job: JobRecord) -> RunHistory:
    """Return a run's history; an empty one while it is damaged. Raises FilesUnavailableError."""
    try:
        return await files.within(Path(job.run_dir), watch.read)
    except RunDirectoryError as error:
        counters.LOOP_FAILURES.labels("job").inc()
        _log.error("job %s: %s", job.id, error)
        return RunHistory()


def _make_run_directory(job: JobRecord, storage: str | None, allowed: Allowed | None) -> None:
    folder = Path(job.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    spec = parse_spec(job.spec, "job")  # an earlier version may have queued it
    if allowed is not None:  # written for every driver: the service may allow less than before
        replace_file(folder / ALLOWED_FILE, allowed.of_owner(job.owner).of_job(spec, job.uses).dump())
    if (folder / JOB).exists():  # an earlier attempt wrote it
        return
    # The driver runs on the cluster and finds it by itself, whatever the cluster's address is.
    cluster = spec.cluster.model_copy(update={"address": "auto"})
    replace_file(folder / JOB, dump_spec(spec.model_copy(update={"cluster": cluster, "storage": storage})))
