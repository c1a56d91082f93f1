"""Say why queued jobs wait: in the words of the limits, and true of the schedule that the supervisor makes.

Invariant: the reason for a job names no other owner and no job of another owner, so that whoever sees the job may read
it. The cost does not depend on the length of the queue, apart from one pass over an index for the places.
"""

import asyncio
import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from orchestrator.schemas.job_state import JobState
from orchestrator.service.store.queue_store import QueueStore
from orchestrator.service.store.records import JobRecord
from orchestrator.service.supervision.limits import Limits
from orchestrator.service.supervision.schedule import JobSchedule, SizedJob, schedule_of

_SECONDS = 0.25
_OTHER = "a job in front of it"


@dataclass(frozen=True, slots=True)
class Situation:
    """Limits, room and state that the supervisor schedules by."""

    limits: Limits
    cluster_gpus: float
    """Total GPUs of the cluster; infinity if they are not known yet."""
    preemption: bool
    trouble: str | None
    """Why no job starts now; None if jobs are supervised."""


@dataclass(frozen=True, slots=True)
class Wait:
    """The place of a queued job, and why it has not started."""

    position: int
    """Place in the queue, from 1."""
    reason: str


class WaitingJobs:
    """The reasons of all queued jobs, for use on one event loop. They follow a schedule that is at most 0.25 s old."""

    def __init__(self, store: QueueStore, situation: Callable[[], Situation]) -> None:
        """
        Args:
            situation: returns what the supervisor schedules by now.
        """
        self._store, self._situation = store, situation
        self._made_at = -math.inf
        self._made: asyncio.Task[JobSchedule] | None = None

    async def of(self, jobs: Collection[JobRecord]) -> dict[str, Wait]:
        """Return place and reason of the queued ones of some jobs, by id. Raises StoreUnavailableError."""
        queued = [job for job in jobs if job.state is JobState.QUEUED]
        if not queued:
            return {}
        places = await self._store.queue_positions(queued)
        situation = self._situation()
        schedule = await self._schedule(situation)
        # A job that has started meanwhile has no place.
        return {job.id: Wait(places[job.id], reason(job, schedule, situation)) for job in queued if job.id in places}

    async def _schedule(self, situation: Situation) -> JobSchedule:
        now = time.monotonic()
        # While the database is slow, all wait for one schedule.
        if self._made is None or (self._made.done() and now - self._made_at > _SECONDS):
            self._made_at, self._made = now, asyncio.create_task(self._make(situation))
        # A caller that is cancelled must not cancel it for the others.
        return await asyncio.shield(self._made)

    async def _make(self, situation: Situation) -> JobSchedule:
        try:
            return await schedule_of(
                self._store, situation.limits, situation.cluster_gpus, preemption=situation.preemption
            )
        except BaseException:
            self._made = None
            raise


def reason(job: JobRecord, schedule: JobSchedule, situation: Situation) -> str:
    """Return why a queued job has not started, as a sentence without its full stop."""
    if situation.trouble is not None:
        return situation.trouble
    starts = any(job.id == other.id for other in schedule.start)
    if not starts and not schedule.owner_has_room(job):
        return _owners_limit(job, schedule, situation.limits)
    first = _first_to_wait(job, schedule)
    return "it is about to start" if starts or first is None else _shared_limit(job, first, schedule, situation)


def _first_to_wait(job: JobRecord, schedule: JobSchedule) -> SizedJob | None:
    """Return the job that waits for shared room and holds this one back; None if this one may start."""
    blocked = schedule.blocked
    if blocked is not None and (-blocked.priority, blocked.seq) < (-job.priority, job.seq):
        return blocked
    # It is the one that waits, or came after the schedule was made.
    return None if schedule.has_room(job) else job


def _shared_limit(job: JobRecord, first: SizedJob, schedule: JobSchedule, situation: Situation) -> str:
    limits, running = situation.limits, len(schedule.taken)
    if running >= limits.running:
        return f"{_running(running)}, and at most {limits.running:g} may (--max-running){_leaving(schedule)}"
    if first.id == job.id:
        return _gpus(job, schedule, situation, "it") + _leaving(schedule)
    return _gpus(first, schedule, situation, f"job {first.id} in front of it" if first.owner == job.owner else _OTHER)


def _owners_limit(job: JobRecord, schedule: JobSchedule, limits: Limits) -> str:
    own = [other for other in schedule.taken if other.owner == job.owner]
    if len(own) >= limits.running_per_user:
        running = _running(len(own), f" of {job.owner}")
        return f"{running}, and at most {limits.running_per_user:g} of a user may (--max-running-per-user)"
    most = f"{limits.gpus_per_user:g} GPUs that a user may have (--max-gpus-per-user)"
    if job.gpus > limits.gpus_per_user:
        return f"it needs {job.gpus:g} GPUs, more than the {most}: it cannot start before the limit is raised"
    used = sum(other.gpus for other in own)
    return f"it needs {job.gpus:g} GPUs, and the jobs of {job.owner} use {used:g} of the {most}"


def _gpus(job: SizedJob, schedule: JobSchedule, situation: Situation, what: str) -> str:
    used = sum(other.gpus for other in schedule.taken)
    capped = situation.limits.gpus <= situation.cluster_gpus
    whose = f"{schedule.gpus:g} GPUs {'that jobs may have together (--max-gpus)' if capped else 'of the cluster'}"
    if job.gpus > schedule.gpus:
        return f"{what} needs {job.gpus:g} GPUs, more than the {whose}"
    return f"{what} needs {job.gpus:g} GPUs, and {max(0, schedule.gpus - used):g} of the {whose} are free"


def _running(count: int, whose: str = "") -> str:
    return f"1 job{whose} is running" if count == 1 else f"{count} jobs{whose} are running"


def _leaving(schedule: JobSchedule) -> str:
    """Return the part of a reason about running jobs that make room."""
    leaving = len(schedule.leaving) + len(schedule.preempt)
    if not leaving:
        return ""
    return "; 1 of lower priority is giving way" if leaving == 1 else f"; {leaving} of lower priority are giving way"
