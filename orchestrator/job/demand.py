"""Resources that a job needs, with the maximum number of workers that its autoscaling allows."""

from orchestrator.job.spec import JobSpec, Method
from protocol.weights import Carrier


def max_gpus(spec: JobSpec) -> float:
    """Return the number of GPUs that the job may use: those of all workers and ranks."""
    return gpus(_with_max_workers(spec))


def max_cpus(spec: JobSpec) -> float:
    """Return the number of CPUs that Ray reserves: one for each worker, each rank and the reward actor."""
    return _with_max_workers(spec).rollout.workers + ranks_of(spec) + (spec.method is Method.REINFORCE)


def scaled(spec: JobSpec, workers: int) -> JobSpec:
    """Return the job with another number of rollout workers."""
    return spec.model_copy(update={"rollout": spec.rollout.model_copy(update={"workers": workers})})


def _with_max_workers(spec: JobSpec) -> JobSpec:
    scaler = spec.rollout.autoscale
    if scaler is None:
        return spec
    return scaled(spec, max(scaler.max, spec.rollout.workers))


def ranks_of(spec: JobSpec) -> int:
    """Return the number of learner ranks; 0 for a job without training."""
    return 0 if spec.method is Method.EVALUATE else spec.learner.ranks


def gpus(spec: JobSpec) -> float:
    """Return the number of GPUs of workers and learner ranks together; on shared GPUs each has its fraction."""
    if not spec.rollout.gpus:
        return 0
    per_rank = 1 - spec.rollout.gpus if spec.rollout.weight_sync is Carrier.CUDA_IPC else 1
    return spec.rollout.workers * spec.rollout.gpus + ranks_of(spec) * per_rank
