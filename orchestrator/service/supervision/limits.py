"""Limits on concurrent jobs, and the check that a job fits into them at all."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from audio_qa.errors import EarshotError
from orchestrator.job.demand import max_cpus, max_gpus, most_workers, node_gpus
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError
from orchestrator.service.store.records import JobRecord


class LimitReachedError(EarshotError):
    """A job that does not fit beside those that run now; the message says which limit is reached."""


class NeverFitsError(SpecError):
    """A job that would wait forever; the message says for which resource."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """Total resources of the cluster, used or not."""

    cpus: float
    gpus: float
    node_gpus: float = math.inf
    """GPUs of its largest node."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds on concurrent jobs; infinity for no bound."""

    running: float = 2
    """Running jobs."""
    running_per_user: float = math.inf
    gpus: float = math.inf
    """GPUs of all running jobs; those of the cluster are a bound, too."""
    gpus_per_user: float = math.inf
    queued: float = math.inf
    """Jobs in the queue."""
    queued_per_user: float = math.inf

    def __post_init__(self) -> None:
        """Raise ValueError if nothing could ever run."""
        if self.running < 1 or self.running_per_user < 1:
            raise ValueError("at least one job must be allowed to run")
        if self.gpus < 0 or self.gpus_per_user < 0:
            raise ValueError("a limit on GPUs cannot be negative")
        if self.queued < 1 or self.queued_per_user < 1:
            raise ValueError("at least one job must be allowed to wait")


def check_fits(spec: JobSpec, limits: Limits, capacity: Capacity | None) -> None:
    """Raise NeverFitsError for a job that could not start even on an idle cluster.

    Args:
        capacity: None while the cluster is unavailable; only the limits are checked then.
    """
    workers = most_workers(spec)
    if workers is not None and spec.rollout.workers > workers:
        raise NeverFitsError(
            f"{spec.rollout.workers} rollout workers are too many: with rollout.weight_sync cuda_ipc each shares the "
            f"GPU of one learner rank, and learner.ranks is {workers}"
        )
    gpus, cpus = max_gpus(spec), max_cpus(spec)
    bounds = [(limits.gpus_per_user, "a user may have {} at a time"), (limits.gpus, "jobs may have {} together")]
    if capacity is not None:
        bounds.append((capacity.gpus, "the cluster has {}"))
    for most, words in bounds:
        if gpus > most:
            raise NeverFitsError(
                f"the job needs {gpus:g} GPUs and {words.format(f'{most:g}')}: "
                "lower rollout.workers, rollout.gpus or learner.ranks"
            )
    together, why = node_gpus(spec)
    if capacity is not None and together > capacity.node_gpus:
        raise NeverFitsError(
            f"the job needs {together:g} GPUs on one node ({why}), and the largest node has {capacity.node_gpus:g}: "
            "lower the number, or run the job on larger nodes"
        )
    if capacity is not None and cpus > capacity.cpus:
        raise NeverFitsError(
            f"the job needs {cpus:g} CPUs, one for each worker, rank and the reward actor, and the cluster has "
            f"{capacity.cpus:g}: lower rollout.workers or learner.ranks"
        )


def check_growth(job: JobRecord, gpus: float, others: Sequence[JobRecord], limits: Limits, cluster_gpus: float) -> None:
    """Raise LimitReachedError if a running job that grows to a number of GPUs does not fit beside the other ones.

    Args:
        others: all other active jobs.
        cluster_gpus: total GPUs of the cluster; infinity if they are not known, or grow on demand.
    """
    own = sum(other.gpus for other in others if other.owner == job.owner)
    together = sum(other.gpus for other in others)
    bounds = (
        (own, limits.gpus_per_user, f" of {job.owner}", "a user may have {} (--max-gpus-per-user)"),
        (together, limits.gpus, "", "all may have {} together (--max-gpus)"),
        (together, cluster_gpus, "", "the cluster has {}"),
    )
    for used, most, whose, words in bounds:
        if used + gpus > most:
            raise LimitReachedError(
                f"the job would count for {gpus:g} GPUs; the other running jobs{whose} count for {used:g}, and "
                f"{words.format(f'{most:g}')}"
            )
