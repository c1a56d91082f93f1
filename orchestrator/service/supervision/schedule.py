"""Which job starts next, and which gives way. Pure: from what there is to what is to be done.

Invariants: a higher priority goes first, within one who came first. What is started fits every limit together with what
runs. Nobody overtakes a job that waits for room for all; a job that only its owner's limits hold back is overtaken.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.schemas.job_state import ACTIVE, JobState
from orchestrator.service.store.records import JobRecord
from orchestrator.service.supervision.limits import Limits


@dataclass(frozen=True, slots=True)
class ScheduleDecision:
    """What is to be done now."""

    start: tuple[JobRecord, ...]
    preempt: tuple[tuple[JobRecord, JobRecord], ...]
    """Each a running job, and the waiting one that it gives way to."""


def decide(jobs: Sequence[JobRecord], limits: Limits, cluster_gpus: float, *, preemption: bool) -> ScheduleDecision:
    """
    Args:
        jobs: all that have not ended, in the order of their submission.
        cluster_gpus: GPUs of the cluster, used or not.
        preemption: a waiting job may take the place of running ones of lower priority.
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
    """The fewest of lowest priority, latest started first, that make room for a job; none if all would not."""
    victims: list[JobRecord] = []
    candidates = sorted(
        (other for other in staying if other.state in ACTIVE and other.priority < job.priority),
        key=lambda other: (other.priority, -(other.started_at.timestamp() if other.started_at else 0)),
    )
    for victim in candidates:
        if _has_room(job, staying, running, gpus):
            break
        # A place is what is lacking, or GPUs are, and this one has some.
        if len(staying) >= running or victim.gpus:
            staying = [other for other in staying if other is not victim]
            victims.append(victim)
    return victims if _has_room(job, staying, running, gpus) else []
