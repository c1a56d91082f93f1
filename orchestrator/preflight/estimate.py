"""Time of a job and size of its weight updates, computed and not measured. Memory is in `orchestrator.job.memory`.

Time is a roofline (Williams et al., 2009): operations as in Kaplan et al., 2020, "Scaling Laws for Neural Language
Models", section 2.1, two for each weight and token in a forward pass, at a share of the GPU's peak rate; bytes at a
share of its bandwidth. Attention is omitted: for prompts of about a thousand tokens on a model of billions of
parameters it is a few percent. So is what GPUs tell one another under tensor parallelism.
"""

from dataclasses import dataclass
from math import ceil
from typing import Any

from orchestrator.job.demand import on_one_node, ranks_of, shares_gpus
from orchestrator.job.gpu import DATA_SHEETS, DataSheet
from orchestrator.job.memory.parameters import BYTES, has_reference, published_parameters
from orchestrator.job.memory.rank import GIB
from orchestrator.job.memory.sizes import Sizes
from orchestrator.job.spec import JobSpec, Method
from protocol.weights import Carrier

LEARNER_EFFICIENCY = 0.4
"""Assumed share of the peak rate of matrix products, of a learner rank and of an engine that prefills prompts."""
DECODING_EFFICIENCY = 0.6
"""Assumed share of the memory bandwidth that an engine reaches while it decodes."""
SYNC_BYTES_PER_SECOND = {
    Carrier.SHARED_MEMORY: 2e9,
    Carrier.OBJECT_STORE: 2e9,
    Carrier.NCCL: 50e9,
    Carrier.CUDA_IPC: 100e9,
}
"""Assumed rate at which new weights reach all rollout workers."""
UNKNOWN_QUESTIONS = 1000
"""Assumed number of held-out questions for a placeholder: the size of MMAU's test-mini."""
LARGE_ON_CPUS = 1_000_000_000
"""Parameters from which a job without GPUs is probably a mistake."""
_TEXT_TOKENS = 100
_TOKENS_PER_SECOND = 25
_TOWER_FRAMES = 1500
"""Frames that an engine's audio tower encodes for any clip: it is padded to 30 s."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Assumed lengths of clips and completions."""

    clip_seconds: float
    completion_tokens: int

    @property
    def audio_tokens(self) -> int:
        return round(self.clip_seconds * _TOKENS_PER_SECOND)

    @property
    def prompt_tokens(self) -> int:
        return _TEXT_TOKENS + self.audio_tokens


def device_warnings(spec: JobSpec, sizes: Sizes) -> list[str]:
    """Return a warning where a large model would run on CPUs because the job asks for no GPUs."""
    if spec.rollout.gpus or sizes.total < LARGE_ON_CPUS:
        return []
    parts = "rollout workers and the learner run" if ranks_of(spec) else "rollout workers run"
    return [
        f"rollout.gpus is 0, so {parts} on CPUs, with a model of {sizes.total / 1e9:.1f} billion parameters; set "
        "rollout.gpus to 1 for a GPU for each worker and each learner rank"
    ]


def time_estimate(spec: JobSpec, sizes: Sizes, held_out: int | None) -> dict[str, Any] | None:
    """Return seconds of a step and of an evaluation, and hours of the job, each as [low, high]; None on CPUs.

    Low is for clips of 10 s and completions of 16 tokens, high for clips of 30 s and the job's longest completions.
    On CPUs a step of a small model is mostly waiting, which a count of operations does not capture.
    """
    if not spec.rollout.gpus:
        return None
    gpu = DATA_SHEETS[spec.cluster.gpu]
    questions = UNKNOWN_QUESTIONS if held_out is None else held_out
    ends = (Lengths(10, min(16, spec.rollout.max_tokens)), Lengths(30, spec.rollout.max_tokens))
    steps = [step_seconds(spec, sizes, gpu, lengths) for lengths in ends]
    # Once with the audio and once for every control.
    prompts = questions * (1 + len(spec.evaluation.controls))
    evaluation = [generation_seconds(spec, sizes, gpu, lengths, prompts, spec.evaluation.samples) for lengths in ends]
    evaluations = evaluations_of(spec) if questions else 0
    hours = [(spec.steps * a + evaluations * b) / 3600 for a, b in zip(steps, evaluation, strict=True)]
    return {
        "gpu": spec.cluster.gpu.value,
        "step_seconds": [round(seconds, 2) for seconds in steps] if spec.steps else None,
        "evaluation_seconds": [round(seconds, 1) for seconds in evaluation],
        "evaluations": evaluations,
        "hours": [round(value, 3) for value in hours],
        "assumptions": [
            f"an estimate for {spec.cluster.gpu} from its data sheet, not a measurement",
            f"matrix products at {LEARNER_EFFICIENCY:.0%} of the peak rate",
            f"decoding at {DECODING_EFFICIENCY:.0%} of the memory's bandwidth",
            f"new weights at {SYNC_BYTES_PER_SECOND[spec.rollout.weight_sync] / 1e9:g} GB/s",
            f"from clips of 10 s with completions of {ends[0].completion_tokens} tokens to clips of 30 s with "
            f"{ends[1].completion_tokens}",
            f"{questions} held-out questions" + (", assumed: the file is a placeholder" if held_out is None else ""),
            "without start-up, warm start, checkpoints, audio loading and offloading",
        ],
    }


def evaluations_of(spec: JobSpec) -> int:
    """Return the number of evaluations: before the first step, at intervals, and after the last step."""
    if not spec.steps:
        return 1
    every = spec.evaluation.every
    return 1 + (ceil(spec.steps / every) if every else 1)


def step_seconds(spec: JobSpec, sizes: Sizes, gpu: DataSheet, lengths: Lengths) -> float:
    """Return the seconds of one learner step: rollouts, learning and weight update, sequential or overlapping."""
    learn = learner_seconds(spec, sizes, gpu, lengths)
    if spec.method is Method.SUPERVISED:
        return learn
    rollout = spec.rollout
    generate = generation_seconds(spec, sizes, gpu, lengths, rollout.questions_per_step, rollout.group_size)
    sync = update_bytes(spec, sizes) / SYNC_BYTES_PER_SECOND[rollout.weight_sync]
    return max(generate, learn + sync) if rollout.max_staleness else generate + learn + sync


def learner_seconds(spec: JobSpec, sizes: Sizes, gpu: DataSheet, lengths: Lengths) -> float:
    """Return the seconds of forward and backward of a batch on all ranks, with the reference's forward."""
    learner = spec.learner
    if spec.method is Method.SUPERVISED:
        questions, group, updates = spec.supervised.batch_size, 1, 1
    else:
        questions, group = spec.rollout.questions_per_step, spec.rollout.group_size
        updates = learner.loss.updates_per_batch
    completions = group * lengths.completion_tokens
    decoder = 2 * sizes.used_decoder * (lengths.prompt_tokens + completions) + 2 * sizes.vocabulary * completions
    # The tower has two positions for each audio token.
    tower = 2 * sizes.audio_tower * 2 * lengths.audio_tokens + 2 * sizes.projector * lengths.audio_tokens
    # A backward pass costs two forward passes, or one if the weights under adapters need no gradient.
    passes = (2 if learner.lora else 3) + learner.activation_checkpointing
    of_tower = passes if learner.train.audio_tower else 1
    reference = decoder + (tower if learner.train.audio_tower else 0) if has_reference(spec) else 0
    operations = questions * (updates * (passes * decoder + of_tower * tower) + reference)
    return operations / (learner.ranks * gpu.operations_per_second * LEARNER_EFFICIENCY)


def generation_seconds(
    spec: JobSpec, sizes: Sizes, gpu: DataSheet, lengths: Lengths, questions: int, group: int
) -> float:
    """Return the seconds to generate on all rollout workers: each prefills its prompts once, then decodes a batch."""
    rollout = spec.rollout
    rate = rollout.tensor_parallel * gpu.operations_per_second * LEARNER_EFFICIENCY
    bandwidth = rollout.tensor_parallel * gpu.bytes_per_second * DECODING_EFFICIENCY
    per_worker = ceil(questions / rollout.workers)
    read = 2 * sizes.used_decoder * lengths.prompt_tokens + 2 * sizes.audio_tower * _TOWER_FRAMES
    sequences = per_worker * group
    together = min(sequences, rollout.max_concurrent)
    used = sizes.used_decoder + sizes.vocabulary
    # Some token of a large batch uses each expert, whose weights are then read.
    experts_read = sizes.experts * (1 - (1 - sizes.expert_share) ** together)
    weights = sizes.decoder + sizes.vocabulary + experts_read
    token = max(2 * weights / bandwidth, 2 * used * together / rate)
    return per_worker * read / rate + ceil(sequences / rollout.max_concurrent) * lengths.completion_tokens * token


def update_bytes(spec: JobSpec, sizes: Sizes) -> int:
    """Return the bytes of one weight update; 0 for a job whose rollout workers get none."""
    return published_parameters(spec, sizes) * BYTES[spec.learner.dtype] if ranks_of(spec) else 0


def weight_update(spec: JobSpec, sizes: Sizes) -> dict[str, Any] | None:
    """Return the size of a weight update, and how it travels; None without a learner."""
    size = update_bytes(spec, sizes)
    if not size:
        return None
    carrier = spec.rollout.weight_sync
    return {"gib": round(size / GIB, 2), "carrier": carrier.value, "way": _way(spec, carrier)}


def _way(spec: JobSpec, carrier: Carrier) -> str:
    if shares_gpus(spec):
        return "within each GPU, which a rank shares with an engine"
    if carrier is Carrier.NCCL:
        return "from the first rank's GPU to all engines' GPUs: between nodes as fast as their network"
    here = (
        "through the memory of the learner's node" if carrier is Carrier.SHARED_MEMORY else "through Ray's object store"
    )
    if on_one_node(spec):
        return f"{here}, where all workers are"
    return f"{here}; once over the network, by TCP, to each other node (or pod) with workers"
