"""Decide which jobs start and which are preempted: a pure function of the current jobs.

Invariants: jobs start by priority, and in order of submission within one priority. Started and running jobs together
fit every limit. A job that waits for a shared limit is not overtaken; one held back only by its owner's limits is.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.schemas.job_state import ACTIVE, JobState
from orchestrator.service.store.records import JobRecord
from orchestrator.service.supervision.limits import Limits


@dataclass(frozen=True, slots=True)
class ScheduleDecision:
    """Jobs to start and to preempt now."""

    start: tuple[JobRecord, ...]
    preempt: tuple[tuple[JobRecord, JobRecord], ...]
    """Pairs of a running job and the waiting job that it gives way to."""


def decide(jobs: Sequence[JobRecord], limits: Limits, cluster_gpus: float, *, preemption: bool) -> ScheduleDecision:
    """Return which jobs to start and to preempt.

    Args:
        jobs: all jobs that have not ended, in order of submission.
        cluster_gpus: total GPUs of the cluster, used or not.
        preemption: whether a waiting job may preempt running ones of lower priority.
    """
    gpus = min(limits.gpus, cluster_gpus)
    active = [job for job in jobs if job.state in ACTIVE]
    waiting = sorted((job for job in jobs if job.state is JobState.QUEUED), key=lambda job: -job.priority)
    start: list[JobRecord] = []
    preempt: list[tuple[JobRecord, JobRecord]] = []
    for job in waiting:
        taken = [*active, *start]
        if not _user_has_room(job, taken, limits):
            continue
        if _has_room(job, taken, limits.running, gpus):
            start.append(job)
            continue
        if preemption:
            leaving = [other for other in active if other.preempt_requested_at is not None]
            victims = _victims(job, [o for o in taken if o not in leaving], limits.running, gpus)
            preempt += [(victim, job) for victim in victims]
        break
    return ScheduleDecision(tuple(start), tuple(preempt))


def _user_has_room(job: JobRecord, taken: Iterable[JobRecord], limits: Limits) -> bool:
    own = [other for other in taken if other.owner == job.owner]
    return _has_room(job, own, limits.running_per_user, limits.gpus_per_user)


def _has_room(job: JobRecord, taken: Sequence[JobRecord], running: float, gpus: float) -> bool:
    return len(taken) < running and sum(other.gpus for other in taken) + job.gpus <= gpus


def _victims(job: JobRecord, staying: list[JobRecord], running: float, gpus: float) -> list[JobRecord]:
    """Return the fewest jobs to preempt: lowest priority first, then latest start; none if that is not enough."""
    victims: list[JobRecord] = []
    candidates = sorted(
        (other for other in staying if other.state in ACTIVE and other.priority < job.priority),
        key=lambda other: (other.priority, -(other.started_at.timestamp() if other.started_at else 0)),
    )
    for victim in candidates:
        if _has_room(job, staying, running, gpus):
            break
        # Preempting it helps: a slot is missing, or GPUs are and it has some.
        if len(staying) >= running or victim.gpus:
            staying = [other for other in staying if other is not victim]
            victims.append(victim)
    return victims if _has_room(job, staying, running, gpus) else []
