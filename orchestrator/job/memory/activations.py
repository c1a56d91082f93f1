"""Activations: the tensors that a micro-batch keeps for its backward pass on a learner rank.

Counted from the tensors that autograd saves in a layer of transformers: inputs of the linear layers, of the norms in
float32, of attention and of the activation function. `tests/orchestrator/job/memory` compares the figures with what
layers save (`test_activations.py`), and with what an H200 was measured to need (`test_rank.py`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from learner.settings import SharePrefix
from orchestrator.job.memory.parameters import BYTES
from orchestrator.job.memory.sizes import Sizes
from orchestrator.job.spec import JobSpec, Method

PER_WIDTH = 1.3
"""Numbers of the model's type that a decoder layer keeps for a token, by input and output of its linear layers."""
PER_TOWER_WIDTH = 1.0
"""The same for a position of the audio tower."""
PER_TOWER_HIDDEN = 8
"""Numbers that the tower's convolutions keep for a position, for each number of its hidden state."""
LOGIT_BYTES = 26
"""Bytes of a logit: in the model's type and in float32, masked, normalised, and its gradient."""
HEAD_LOGITS = 2**27
"""Most logits that exist at once (`learner.model.head.CHUNK_ELEMENTS`)."""
_CLIP_SECONDS = 30
_POSITIONS_PER_SECOND = 50
_TEXT_TOKENS = 100


@dataclass(frozen=True, slots=True)
class MicroBatchSize:
    """The largest micro-batch of a job."""

    tokens: int
    clips: int
    """Clips of 30 s that fit into `learner.micro_batch_tokens`. A longer row has one."""


def largest_micro_batch(spec: JobSpec, sizes: Sizes) -> MicroBatchSize:
    """Return the size of the largest micro-batch: a row, which is never divided, may be larger than the setting.

    None is larger than a rank's share of the batch. Rows go to the rank with the fewest tokens
    (`learner.training.micro_batches`), so that its share exceeds the average by less than a row.
    """
    limit, ranks = spec.learner.micro_batch_tokens, spec.learner.ranks
    largest = (max(row, min(limit, -(-(rows + ranks - 1) // ranks) * row)) for row, rows in _batches(spec))
    tokens, prompt = max(largest), _TEXT_TOKENS + round(_CLIP_SECONDS * sizes.audio_tokens_per_second)
    return MicroBatchSize(tokens, max(1, min(limit, tokens) // prompt))


def _batches(spec: JobSpec) -> Iterator[tuple[int, int]]:
    """Yield the tokens of the longest row, and the number of rows, of a step of each of the job's phases.

    A row is a prompt with all completions of its group, if they share it, or else with one of them.
    """
    rollout, row = spec.rollout, spec.model.max_context
    if spec.method is Method.SUPERVISED:
        yield row, spec.supervised.batch_size
    elif spec.learner.share_prefix is SharePrefix.NEVER:
        yield row, rollout.questions_per_step * rollout.group_size
    else:
        yield row + (rollout.group_size - 1) * rollout.max_tokens, rollout.questions_per_step
    if spec.warm_start is not None:
        yield row, spec.warm_start.batch_size


def activation_bytes(spec: JobSpec, sizes: Sizes, batch: MicroBatchSize | None = None) -> int:
    """Return the bytes that a micro-batch, by default the largest, keeps for its backward pass."""
    batch = batch or largest_micro_batch(spec, sizes)
    width, recomputed = BYTES[spec.learner.dtype], spec.learner.activation_checkpointing
    decoder = _kept(PER_WIDTH * sizes.used_width, sizes.layers, sizes.hidden, recomputed=recomputed)
    tower = 0.0
    if spec.learner.train.audio_tower:
        tower = PER_TOWER_HIDDEN * sizes.tower_hidden + _kept(
            PER_TOWER_WIDTH * sizes.audio_tower_width, sizes.tower_layers, sizes.tower_hidden, recomputed=recomputed
        )
    positions = batch.clips * _CLIP_SECONDS * _POSITIONS_PER_SECOND
    logits = min(HEAD_LOGITS, batch.tokens * sizes.tokens)
    return round(width * (batch.tokens * decoder + positions * tower)) + LOGIT_BYTES * logits


def _kept(layers_keep: float, layers: int, hidden: int, *, recomputed: bool) -> float:
    """Return what some layers keep of a token: all, or each one's input and all of the layer that is recomputed."""
    return layers * hidden + layers_keep / max(1, layers) if recomputed else layers_keep
