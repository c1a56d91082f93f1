"""What a job asks of a cluster."""

from orchestrator.plan import gpus
from orchestrator.spec import JobSpec


def gpus_of(spec: JobSpec) -> float:
    """GPUs of its workers and ranks together, at the most workers that it may give itself."""
    scaler = spec.rollout.autoscale
    if scaler is None:
        return gpus(spec)
    most = spec.rollout.model_copy(update={"workers": max(scaler.max, spec.rollout.workers)})
    return gpus(spec.model_copy(update={"rollout": most}))
