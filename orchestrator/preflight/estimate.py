"""What a job will take, worked out and not measured: memory by what is stored, time by what must be computed and moved.

Memory is the accounting of Rajbhandari et al., 2020, "ZeRO", section 3.1. Time is a roofline (Williams et al., 2009):
operations as in Kaplan et al., 2020, "Scaling Laws for Neural Language Models", section 2.1, two for each weight and
token in a forward pass, over a share of the GPU's peak; bytes over a share of its bandwidth. Attention is left out: for
prompts of about a thousand tokens on a model of billions of parameters it is a few percent.
"""

from dataclasses import dataclass
from math import ceil
from typing import Any

from orchestrator.job.gpu import DATA_SHEETS, DataSheet
from orchestrator.job.spec import JobSpec, Method
from orchestrator.preflight.sizes import Sizes
from protocol.weights import Carrier

LEARNER_EFFICIENCY = 0.4
"""Share of the peak rate of matrix products that a learner rank, or an engine reading prompts, is assumed to reach."""
DECODING_EFFICIENCY = 0.6
"""Share of the memory's bandwidth that an engine is assumed to reach where it decodes."""
SYNC_BYTES_PER_SECOND = {
    Carrier.SHARED_MEMORY: 2e9,
    Carrier.OBJECT_STORE: 2e9,
    Carrier.NCCL: 50e9,
    Carrier.CUDA_IPC: 100e9,
}
"""How fast new weights are assumed to reach all rollout workers."""
UNKNOWN_QUESTIONS = 1000
"""Held-out questions where their file is not there yet: as many as MMAU's test-mini has."""
_TEXT_TOKENS = 100
_TOKENS_PER_SECOND = 25
_TOWER_FRAMES = 1500
"""What an engine's audio tower encodes of any clip: it is padded to 30 s."""
_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long clips and answers are taken to be."""

    clip_seconds: float
    answer_tokens: int

    @property
    def audio_tokens(self) -> int:
        return round(self.clip_seconds * _TOKENS_PER_SECOND)

    @property
    def prompt_tokens(self) -> int:
        return _TEXT_TOKENS + self.audio_tokens


def trained_parameters(spec: JobSpec, sizes: Sizes) -> int:
    """Parameters with a gradient: those of the parts that train, or of their adapters."""
    train, lora = spec.learner.train, spec.learner.lora
    parts = (
        (train.audio_tower, sizes.audio_tower, sizes.audio_tower_width),
        (train.projector, sizes.projector, sizes.projector_width),
        (train.language_model, sizes.language_model, sizes.decoder_width),
    )
    return sum(lora.rank * width if lora else parameters for trains, parameters, width in parts if trains)


def has_reference(spec: JobSpec) -> bool:
    """Whether ranks compute what the model at the start would say."""
    return spec.method is Method.REINFORCE and spec.learner.beta > 0


def learner_bytes(spec: JobSpec, sizes: Sizes) -> int:
    """Model, gradients and AdamW's state of one rank under its ZeRO stage; activations are not counted.

    Nothing where nothing is learnt: there is no rank.
    """
    if spec.method is Method.EVALUATE:
        return 0
    learner = spec.learner
    width, ranks, stage = _BYTES[learner.dtype], learner.ranks, learner.zero_stage
    master = 0 if learner.dtype == "float32" else 4
    trained = trained_parameters(spec, sizes)
    held = sizes.total + (trained if learner.lora else 0)
    weights = held * width // (ranks if stage == 3 else 1)
    gradients = trained * width // (ranks if stage >= 2 else 1)
    optimizer = 0 if learner.offload_optimizer else trained * (8 + master) // (ranks if stage >= 1 else 1)
    # With adapters, the model without them is the reference.
    reference = sizes.total * width if has_reference(spec) and not learner.lora else 0
    return weights + gradients + optimizer + reference


def rollout_bytes(spec: JobSpec, sizes: Sizes) -> int:
    """What one engine takes: on the CPU weights and key-value cache, on a GPU the share that it is given of it."""
    if spec.rollout.gpus:
        return int(DATA_SHEETS[spec.cluster.gpu].memory_gib * spec.rollout.gpu_memory_fraction * 2**30)
    return sizes.total * _BYTES[spec.learner.dtype] + spec.rollout.cpu_kv_gib * 2**30


def memory_warnings(spec: JobSpec, sizes: Sizes) -> list[str]:
    """What will not fit the job's GPUs, if they are the ones it names."""
    if not spec.rollout.gpus:
        return []
    gpu = DATA_SHEETS[spec.cluster.gpu]
    rank = learner_bytes(spec, sizes) / 2**30
    weights, share = 2 * sizes.total / 2**30, gpu.memory_gib * spec.rollout.gpu_memory_fraction
    found = []
    if rank > gpu.memory_gib:
        found.append(
            f"a learner rank takes {rank:.0f} GiB before activations; {spec.cluster.gpu} has {gpu.memory_gib:g}"
        )
    if weights > share:
        found.append(f"an engine's weights take {weights:.0f} GiB; its share of {spec.cluster.gpu} is {share:.0f}")
    return found


def time_estimate(spec: JobSpec, sizes: Sizes, held_out: int | None) -> dict[str, Any] | None:
    """Seconds of a step and of an evaluation, and hours of the job, each at the least and at the most; None on CPUs.

    A job without steps has no seconds of one.

    The least is for clips of 10 s and answers of 16 tokens, the most for clips of 30 s and answers as long as the job
    allows. On CPUs a step of a small model is mostly waiting, which no count of operations tells.
    """
    if not spec.rollout.gpus:
        return None
    gpu = DATA_SHEETS[spec.cluster.gpu]
    questions = UNKNOWN_QUESTIONS if held_out is None else held_out
    ends = (Lengths(10, min(16, spec.rollout.max_tokens)), Lengths(30, spec.rollout.max_tokens))
    steps = [step_seconds(spec, sizes, gpu, lengths) for lengths in ends]
    # With their clips, and once more for every control.
    asked = questions * (1 + len(spec.evaluation.controls))
    each = [generation_seconds(spec, sizes, gpu, lengths, asked, spec.evaluation.samples) for lengths in ends]
    evaluations = evaluations_of(spec) if questions else 0
    hours = [(spec.steps * a + evaluations * b) / 3600 for a, b in zip(steps, each, strict=True)]
    return {
        "gpu": spec.cluster.gpu.value,
        "step_seconds": [round(seconds, 2) for seconds in steps] if spec.steps else None,
        "evaluation_seconds": [round(seconds, 1) for seconds in each],
        "evaluations": evaluations,
        "hours": [round(value, 3) for value in hours],
        "assumptions": [
            f"an estimate for {spec.cluster.gpu} by its data sheet, not a measurement",
            f"matrix products at {LEARNER_EFFICIENCY:.0%} of the peak rate",
            f"decoding at {DECODING_EFFICIENCY:.0%} of the memory's bandwidth",
            f"new weights at {SYNC_BYTES_PER_SECOND[spec.rollout.weight_sync] / 1e9:g} GB/s",
            f"from clips of 10 s with answers of {ends[0].answer_tokens} tokens to clips of 30 s with "
            f"{ends[1].answer_tokens}",
            f"{questions} held-out questions" + (", as their file is not there" if held_out is None else ""),
            "without start-up, warm start, checkpoints, reading of clips and offloading",
        ],
    }


def evaluations_of(spec: JobSpec) -> int:
    """How often a job asks its held-out questions: before the first step, every so many, and behind the last one."""
    if not spec.steps:
        return 1
    every = spec.evaluation.every
    return 1 + (ceil(spec.steps / every) if every else 1)


def step_seconds(spec: JobSpec, sizes: Sizes, gpu: DataSheet, lengths: Lengths) -> float:
    """One learner step: rollouts, learning and new weights one behind the other, or rollouts beside the rest."""
    learn = learner_seconds(spec, sizes, gpu, lengths)
    if spec.method is Method.SUPERVISED:
        return learn
    rollout = spec.rollout
    generate = generation_seconds(spec, sizes, gpu, lengths, rollout.questions_per_step, rollout.group_size)
    sync = 2 * sizes.total / SYNC_BYTES_PER_SECOND[rollout.weight_sync]
    return max(generate, learn + sync) if rollout.max_staleness else generate + learn + sync


def learner_seconds(spec: JobSpec, sizes: Sizes, gpu: DataSheet, lengths: Lengths) -> float:
    """Forward and backward of a batch on all ranks, and the reference's forward."""
    learner = spec.learner
    if spec.method is Method.SUPERVISED:
        questions, group, updates = spec.supervised.batch_size, 1, 1
    else:
        questions, group = spec.rollout.questions_per_step, spec.rollout.group_size
        updates = learner.loss.updates_per_batch
    answers = group * lengths.answer_tokens
    decoder = 2 * sizes.decoder * (lengths.prompt_tokens + answers) + 2 * sizes.vocabulary * answers
    # The tower has two positions for each token that it hands on.
    tower = 2 * sizes.audio_tower * 2 * lengths.audio_tokens + 2 * sizes.projector * lengths.audio_tokens
    # A backward pass is two forward passes' worth, or one where the weights beneath adapters need no gradient.
    passes = (2 if learner.lora else 3) + learner.activation_checkpointing
    of_tower = passes if learner.train.audio_tower else 1
    reference = decoder + (tower if learner.train.audio_tower else 0) if has_reference(spec) else 0
    operations = questions * (updates * (passes * decoder + of_tower * tower) + reference)
    return operations / (learner.ranks * gpu.operations_per_second * LEARNER_EFFICIENCY)


def generation_seconds(
    spec: JobSpec, sizes: Sizes, gpu: DataSheet, lengths: Lengths, questions: int, group: int
) -> float:
    """Answers to questions on all rollout workers: each reads its prompts once, then decodes them side by side."""
    rollout = spec.rollout
    rate, bandwidth = gpu.operations_per_second * LEARNER_EFFICIENCY, gpu.bytes_per_second * DECODING_EFFICIENCY
    of_a_worker = ceil(questions / rollout.workers)
    read = of_a_worker * (2 * sizes.decoder * lengths.prompt_tokens + 2 * sizes.audio_tower * _TOWER_FRAMES) / rate
    sequences = of_a_worker * group
    together = min(sequences, rollout.max_concurrent)
    weights = sizes.decoder + sizes.vocabulary
    token = max(2 * weights / bandwidth, 2 * weights * together / rate)
    return read + ceil(sequences / rollout.max_concurrent) * lengths.answer_tokens * token
