"""What a job asks of a cluster, at the most workers that it may give itself."""

from orchestrator.job.spec import JobSpec, Method
from protocol.weights import Carrier


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


def ranks_of(spec: JobSpec) -> int:
    """Learner ranks: none where nothing is learnt."""
    return 0 if spec.method is Method.EVALUATE else spec.learner.ranks


def gpus(spec: JobSpec) -> float:
    """GPUs of workers and learner ranks together; where they share some, each has its part of them."""
    if not spec.rollout.gpus:
        return 0
    of_a_rank = 1 - spec.rollout.gpus if spec.rollout.weight_sync is Carrier.CUDA_IPC else 1
    return spec.rollout.workers * spec.rollout.gpus + ranks_of(spec) * of_a_rank
