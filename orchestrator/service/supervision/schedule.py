"""Decide which jobs start and which are preempted, job by job in the order of the queue.

Invariants: jobs start by priority, and in order of submission within one priority. Started and running jobs together
fit every limit. A job that waits for a shared limit is not overtaken; one held back only by its owner's limits is.
"""

from collections.abc import Iterable, Sequence

from orchestrator.service.store.queue_store import OwnersUse, QueueStore
from orchestrator.service.store.records import JobRecord, QueuedJob
from orchestrator.service.supervision.limits import Limits

SizedJob = JobRecord | QueuedJob


class JobSchedule:
    """A decision that grows with each job that is offered to it."""

    def __init__(self, active: Sequence[JobRecord], limits: Limits, cluster_gpus: float, *, preemption: bool) -> None:
        """
        Args:
            active: all active jobs, in order of submission.
            cluster_gpus: total GPUs of the cluster, used or not.
            preemption: whether a waiting job may preempt running ones of lower priority.
        """
        self._active, self._limits, self._preemption = active, limits, preemption
        self.gpus = min(limits.gpus, cluster_gpus)
        """GPUs that all jobs may use together."""
        self.start: list[QueuedJob] = []
        """Jobs to start now."""
        self.preempt: list[tuple[JobRecord, QueuedJob]] = []
        """Pairs of a running job to preempt now, and the waiting job that it gives way to."""
        self.blocked: QueuedJob | None = None
        """The first job that waits for room shared by all; no later job is started."""

    @property
    def taken(self) -> list[SizedJob]:
        """Active jobs, and those to start now."""
        return [*self._active, *self.start]

    @property
    def leaving(self) -> list[JobRecord]:
        """Jobs that were asked to give way."""
        return [job for job in self._active if job.preempt_requested_at is not None]

    def offer(self, job: QueuedJob) -> bool:
        """Decide about the next job of the queue. Return whether later jobs may start."""
        taken = self.taken
        if not self.owner_has_room(job):
            return True
        if has_room(job, taken, self._limits.running, self.gpus):
            self.start.append(job)
            return True
        self.blocked = job
        if self._preemption:
            leaving = self.leaving
            staying = [other for other in taken if other not in leaving]
            self.preempt = [(victim, job) for victim in self._victims(job, staying)]
        return False

    def has_room(self, job: SizedJob) -> bool:
        """Return whether all limits let the job start now."""
        return self.owner_has_room(job) and has_room(job, self.taken, self._limits.running, self.gpus)

    def owner_has_room(self, job: SizedJob) -> bool:
        """Return whether the limits of its owner let the job start now."""
        own = [other for other in self.taken if other.owner == job.owner]
        return has_room(job, own, self._limits.running_per_user, self._limits.gpus_per_user)

    def owners_use(self) -> OwnersUse:
        """Return what started jobs use by owner: jobs for which `owner_has_room` is false need not be offered."""
        own: dict[str, list[SizedJob]] = {}
        for job in self.taken:
            own.setdefault(job.owner, []).append(job)
        return OwnersUse(
            frozenset(owner for owner, theirs in own.items() if len(theirs) >= self._limits.running_per_user),
            {owner: sum(job.gpus for job in theirs) for owner, theirs in own.items()},
            self._limits.gpus_per_user,
        )

    def _victims(self, job: QueuedJob, staying: list[SizedJob]) -> list[JobRecord]:
        """Return the fewest jobs to preempt: lowest priority first, then latest start; none if that is not enough."""
        running, victims = self._limits.running, list[JobRecord]()
        candidates = sorted(
            (other for other in self._active if other in staying and other.priority < job.priority),
            key=lambda other: (other.priority, -(other.started_at.timestamp() if other.started_at else 0)),
        )
        for victim in candidates:
            if has_room(job, staying, running, self.gpus):
                break
            # Preempting it helps: a slot is missing, or GPUs are and it has some.
            if len(staying) >= running or victim.gpus:
                staying = [other for other in staying if other is not victim]
                victims.append(victim)
        return victims if has_room(job, staying, running, self.gpus) else []


async def schedule_of(
    store: QueueStore, limits: Limits, cluster_gpus: float, *, preemption: bool, page: int = 32
) -> JobSchedule:
    """Return the schedule of the jobs in the store.

    Only those jobs of the queue are read that may start or wait for shared room: however many wait after them, or are
    held back by their owners' limits, it takes one query for each `page` jobs that start.
    """
    schedule = JobSchedule(await store.active(), limits, cluster_gpus, preemption=preemption)
    found = await store.queue(schedule.owners_use(), limit=page)
    while all(schedule.offer(job) for job in found) and len(found) == page:
        found = await store.queue(schedule.owners_use(), after=found[-1], limit=page)
    return schedule


def has_room(job: SizedJob, taken: Iterable[SizedJob], running: float, gpus: float) -> bool:
    """Return whether a job fits beside others, given the most jobs and GPUs."""
    taken = list(taken)
    return len(taken) < running and sum(other.gpus for other in taken) + job.gpus <= gpus
