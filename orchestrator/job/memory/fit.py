"""Refuse a job that does not fit the GPUs that it names, with what to change."""

from dataclasses import dataclass
from math import floor

from orchestrator.job.demand import engines_on_one_gpu, ranks_of, shares_gpus
from orchestrator.job.gpu import DATA_SHEETS
from orchestrator.job.memory.activations import largest_micro_batch
from orchestrator.job.memory.rank import GIB, EngineNeeds, RankMemory, engine_memory, rank_memory
from orchestrator.job.memory.sizes import Sizes
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError

PROCESS_GIB = 1.0
"""Assumed memory of a process outside of torch's allocator: CUDA's context, cuBLAS, kernels."""
RANKS_GIB = 0.5
"""Assumed memory of NCCL in a rank that has others to talk to."""
FRAGMENTED = 0.05
"""Assumed share of its tensors that torch's allocator cannot use, since micro-batches differ in size."""
ENGINE_GIB = 2.0
"""Assumed memory of an engine beside weights and key-value cache: activations of a batch, CUDA graphs."""
ASLEEP_GIB = 2.5
"""Assumed memory that a sleeping engine keeps: CUDA's context and graphs."""
UPDATE_GIB = 2.0
"""Buffers of a weight update by CUDA IPC: one of vLLM's that holds at least a gigabyte, and the largest weight."""


@dataclass(frozen=True, slots=True)
class _Need:
    """The memory that some processes need of one GPU together."""

    what: str
    gib: float
    advice: str


def misfits(spec: JobSpec, sizes: Sizes) -> list[str]:
    """Return for each part that does not fit its GPU what it needs, what there is, and what to set.

    Empty for a job without GPUs.
    """
    if not spec.rollout.gpus:
        return []
    have = DATA_SHEETS[spec.cluster.gpu].memory_gib
    share = have * spec.rollout.gpu_memory_fraction
    rank, engine = rank_memory(spec, sizes), engine_memory(spec, sizes)
    found = []
    start = engine_gib(engine)
    if start > share:
        found.append(
            f"an engine needs {start:.1f} GiB for its weights and one sequence of model.max_context, and its share of "
            f"{spec.cluster.gpu} is {share:.1f}: {_engine_advice(spec)}"
        )
    for need in [*_shares_of_engines(spec, have), *_learner_needs(spec, sizes, rank, share)]:
        if need.gib > have:
            found.append(f"{need.what} {need.gib:.1f} GiB, and {spec.cluster.gpu} has {have:.1f}: {need.advice}")
    return found


def check_memory(spec: JobSpec, sizes: Sizes) -> None:
    """Raise SpecError for a job that does not fit its GPUs, unless `cluster.check_memory` is false."""
    found = misfits(spec, sizes) if spec.cluster.check_memory else []
    if found:
        raise SpecError(
            f"{found[0]}; cluster.gpu names other GPUs, and cluster.check_memory: false starts the job anyway"
        )


def learner_gib(spec: JobSpec, rank: RankMemory) -> float:
    """Return the most GiB of a GPU that a learner rank takes, with what torch's allocator does not count."""
    return rank.most * (1 + FRAGMENTED) / GIB + _outside(spec)


def engine_gib(engine: EngineNeeds) -> float:
    """Return the least GiB of a GPU that an engine can work with."""
    return (engine.weights + engine.context) / GIB + ENGINE_GIB


def _shares_of_engines(spec: JobSpec, have: float) -> list[_Need]:
    """Return what engines take that have parts of one GPU: each takes its share of all of the GPU's memory."""
    together, fraction = engines_on_one_gpu(spec), spec.rollout.gpu_memory_fraction
    most = floor(1000 / together) / 1000
    advice = (
        f"each takes rollout.gpu_memory_fraction ({fraction:g}) of the GPU; set that to at most {most:g}, or "
        "rollout.gpus to 1"
    )
    what = f"{together} rollout workers on one GPU (rollout.gpus {spec.rollout.gpus:g}) need"
    return [_Need(what, together * fraction * have, advice)]


def _outside(spec: JobSpec) -> float:
    return PROCESS_GIB + (RANKS_GIB if ranks_of(spec) > 1 else 0)


def _learner_needs(spec: JobSpec, sizes: Sizes, rank: RankMemory, share: float) -> list[_Need]:
    if not ranks_of(spec):
        return []
    learner = learner_gib(spec, rank)
    parts = f"{rank.activations / GIB:.1f} of them for activations"
    if not shares_gpus(spec):
        return [_Need("a learner rank needs", learner, f"{parts}; {_rank_advice(spec, sizes, rank)}")]
    held = rank.between_steps * (1 + FRAGMENTED) / GIB + _outside(spec)
    return [
        _Need(
            "a learner rank beside a sleeping engine needs",
            learner + ASLEEP_GIB,
            f"{parts}; {_rank_advice(spec, sizes, rank)}",
        ),
        _Need(
            "an engine beside what a learner rank holds needs",
            share + held + UPDATE_GIB,
            f"{share:.1f} of them for the engine; lower rollout.gpu_memory_fraction, or {_held_advice(spec)}",
        ),
    ]


def _engine_advice(spec: JobSpec) -> str:
    if shares_gpus(spec):
        return "raise rollout.gpu_memory_fraction, or give the rollout workers GPUs of their own"
    parallel = spec.rollout.tensor_parallel
    return f"raise rollout.gpu_memory_fraction, or set rollout.tensor_parallel and rollout.gpus to {2 * parallel}"


def _rank_advice(spec: JobSpec, sizes: Sizes, rank: RankMemory) -> str:
    """Return what saves most: activations if they are more than half of what does not fit, else the model's state."""
    learner = spec.learner
    if rank.activations > rank.states / 2:
        if not learner.activation_checkpointing:
            return "set learner.activation_checkpointing"
        if largest_micro_batch(spec, sizes).tokens <= learner.micro_batch_tokens:
            return "lower learner.micro_batch_tokens"
        return "lower rollout.max_tokens, rollout.group_size or model.max_context, or set learner.share_prefix to never"
    return _held_advice(spec)


def _held_advice(spec: JobSpec) -> str:
    """Return how to make the model's state on a rank smaller."""
    learner = spec.learner
    options = {
        "set learner.dtype to bfloat16": learner.dtype == "float32",
        "set learner.zero_stage to 3": learner.zero_stage < 3,
        "raise learner.ranks, or set learner.offload_optimizer": not (learner.lora or learner.offload_optimizer),
        "set learner.beta to 0, which needs no reference model, or train adapters (learner.lora)": learner.beta > 0
        and not learner.lora,
    }
    return next((advice for advice, helps in options.items() if helps), "raise learner.ranks")
