"""The memory of a learner rank and of an engine, and what of it is in CPU memory."""

from dataclasses import dataclass

from orchestrator.job.demand import ranks_of, shares_gpus
from orchestrator.job.memory.activations import activation_bytes
from orchestrator.job.memory.model_states import model_states
from orchestrator.job.memory.parameters import BYTES, parameters_of, reference_bytes
from orchestrator.job.memory.sizes import Sizes
from orchestrator.job.sections.engine import engine_dtype
from orchestrator.job.spec import JobSpec

GIB = 2**30
_QUANTIZED = 1
"""Bytes of a weight that an engine quantizes."""


@dataclass(frozen=True, slots=True)
class RankMemory:
    """Bytes of one learner rank; all 0 for a job without training."""

    between_steps: int = 0
    """On its GPU while the rollout workers generate: parameters, optimizer state, reference model."""
    states: int = 0
    """The most that it needs on its GPU without activations."""
    activations: int = 0
    """The activations of its largest micro-batch."""
    most: int = 0
    """The most on its GPU at any time."""
    cpu: int = 0
    """In CPU memory."""


@dataclass(frozen=True, slots=True)
class EngineNeeds:
    """Bytes of one engine, on each of its GPUs."""

    weights: int
    context: int
    """Key-value cache of one sequence of `model.max_context`."""
    cpu: int
    """In CPU memory: its weights while it sleeps."""


def rank_memory(spec: JobSpec, sizes: Sizes) -> RankMemory:
    """Return what a rank needs. Activations are free when gradients are reduced and the optimizer steps."""
    if not ranks_of(spec):
        return RankMemory()
    states, reference = model_states(spec.learner, parameters_of(spec, sizes)), reference_bytes(spec, sizes)
    held, activations = states.held + reference, activation_bytes(spec, sizes)
    at_work = held + max(states.computing + activations, states.reducing, states.stepping)
    return RankMemory(
        between_steps=held,
        states=states.most + reference,
        activations=activations,
        most=max(at_work, states.starting + reference),
        cpu=states.cpu + states.cpu_computing,
    )


def engine_memory(spec: JobSpec, sizes: Sizes) -> EngineNeeds:
    """Return what an engine needs of each of its GPUs."""
    rollout, options = spec.rollout, spec.rollout.engine
    chosen = engine_dtype(rollout, spec.learner.dtype)
    # Published weights have 2 bytes, and vLLM loads float32 files in bfloat16.
    width = BYTES["bfloat16" if chosen == "auto" else chosen]
    weights = sizes.total * (_QUANTIZED if options.quantization else width) // rollout.tensor_parallel
    cached = width if options.kv_cache_dtype == "auto" else _QUANTIZED
    context = 2 * cached * sizes.keys * spec.model.max_context // rollout.tensor_parallel
    asleep = weights * rollout.tensor_parallel if shares_gpus(spec) else 0
    return EngineNeeds(weights, context, cpu=asleep)


def learner_bytes(spec: JobSpec, sizes: Sizes) -> int:
    """Return the most bytes that a rank needs on its GPU, without activations; 0 for a job without training."""
    return rank_memory(spec, sizes).states
