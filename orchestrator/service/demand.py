"""What a job asks of a cluster, at the most workers that it may give itself."""

from orchestrator.plan import gpus, ranks_of
from orchestrator.spec import JobSpec, Method


def gpus_of(spec: JobSpec) -> float:
    """GPUs of its workers and ranks together."""
    return gpus(_at_most(spec))


def cpus_of(spec: JobSpec) -> float:
    """CPUs that Ray sets aside: one for each worker, each rank and the reward actor."""
    return _at_most(spec).rollout.workers + ranks_of(spec) + (spec.method is Method.REINFORCE)


def scaled(spec: JobSpec, workers: int) -> JobSpec:
    """The job as if it had been submitted with so many rollout workers."""
    return spec.model_copy(update={"rollout": spec.rollout.model_copy(update={"workers": workers})})


def _at_most(spec: JobSpec) -> JobSpec:
    scaler = spec.rollout.autoscale
    if scaler is None:
        return spec
    return scaled(spec, max(scaler.max, spec.rollout.workers))
