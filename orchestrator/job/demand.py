"""Resources that a job needs, with the maximum number of workers that its autoscaling allows."""

import math

from orchestrator.job.spec import JobSpec, Method, Placement
from protocol.weights import Carrier

_SHARES = 10_000
"""Ray counts a GPU in as many shares, and rounds: two parts of one GPU have to be whole shares to fit it."""


def max_gpus(spec: JobSpec) -> float:
    """Return the number of GPUs that the job may use: those of all workers and ranks."""
    return gpus(_with_max_workers(spec))


def max_cpus(spec: JobSpec) -> float:
    """Return the number of CPUs that Ray reserves: one for each worker, each rank and the reward actor."""
    workers = _with_max_workers(spec).rollout.workers
    if shares_gpus(spec):
        workers = max(workers, ranks_of(spec))  # reserved with each rank
    return workers + ranks_of(spec) + (spec.method is Method.REINFORCE)


def scaled(spec: JobSpec, workers: int) -> JobSpec:
    """Return the job with another number of rollout workers, as far as it affects the resources that it needs.

    Workers whose room is reserved together with the learner's (`cluster.placement: one_node`) keep it, and those beyond
    their number run anywhere.
    """
    cluster = spec.cluster
    if on_one_node(spec):
        if workers > spec.rollout.workers:
            cluster = cluster.model_copy(update={"placement": Placement.ANYWHERE})
        workers = max(workers, spec.rollout.workers)
    rollout = spec.rollout.model_copy(update={"workers": workers})
    return spec.model_copy(update={"rollout": rollout, "cluster": cluster})


def _with_max_workers(spec: JobSpec) -> JobSpec:
    scaler = spec.rollout.autoscale
    if scaler is None:
        return spec
    return scaled(spec, max(scaler.max, spec.rollout.workers))


def ranks_of(spec: JobSpec) -> int:
    """Return the number of learner ranks; 0 for a job without training."""
    return 0 if spec.method is Method.EVALUATE else spec.learner.ranks


def shares_gpus(spec: JobSpec) -> bool:
    """Return whether each rank shares its GPU with a rollout worker, so that both take turns on it."""
    return spec.rollout.weight_sync is Carrier.CUDA_IPC and ranks_of(spec) > 0


def on_one_node(spec: JobSpec) -> bool:
    """Return whether ranks and rollout workers have GPUs, or CPUs, of their own on one node."""
    return spec.cluster.placement is Placement.ONE_NODE and ranks_of(spec) > 0 and not shares_gpus(spec)


def most_workers(spec: JobSpec) -> int | None:
    """Return the maximum number of rollout workers: one for each GPU that they share with the learner; else None."""
    return ranks_of(spec) if shares_gpus(spec) else None


def engines_on_one_gpu(spec: JobSpec) -> int:
    """Return the most rollout workers that have parts of one GPU, on which Ray puts as many as fit."""
    share, workers = spec.rollout.gpus, _with_max_workers(spec).rollout.workers
    if shares_gpus(spec) or not 0 < share < 1:
        return 1
    return min(workers, _SHARES // max(1, round(share * _SHARES)))


def cpus_per_worker(spec: JobSpec) -> float:
    """Return the CPUs that Ray reserves for one rollout worker: none on a Ray of the job's own, which all share."""
    return 0 if spec.cluster.address is None else 1


def gpus_per_worker(spec: JobSpec) -> float:
    """Return the GPUs of one rollout worker, in whole shares where a rank has the rest of the GPU."""
    share = spec.rollout.gpus
    return max(1, math.floor(share * _SHARES)) / _SHARES if shares_gpus(spec) else share


def gpus_per_rank(spec: JobSpec) -> float:
    """Return the GPUs of one learner rank: one, none without GPUs, or what its rollout worker leaves."""
    if shares_gpus(spec):
        return (_SHARES - round(gpus_per_worker(spec) * _SHARES)) / _SHARES
    return 1 if spec.rollout.gpus else 0


def gpus_of_engine(gpus: float) -> dict[str, float]:
    """Return the keys of `rollout` for an engine on a number of GPUs, which share its model if there are several."""
    return {"gpus": gpus, "tensor_parallel": max(1, int(gpus))}


def node_gpus(spec: JobSpec) -> tuple[float, str]:
    """Return the number of GPUs that have to be on one node, and the key of the job file that asks for it."""
    if on_one_node(spec):
        return gpus(spec), "cluster.placement: one_node"
    return spec.rollout.gpus, "rollout.gpus, of each worker"


def gpus(spec: JobSpec) -> float:
    """Return the number of GPUs of workers and learner ranks together."""
    if shares_gpus(spec):
        # A rank's GPU is reserved for the job as a whole, also while no worker has a part of it.
        return max(ranks_of(spec), spec.rollout.workers)
    return spec.rollout.workers * spec.rollout.gpus + ranks_of(spec) * gpus_per_rank(spec)
