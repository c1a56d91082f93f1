"""Memory that DeepSpeed 0.19 takes on a learner rank: parameters, gradients, optimizer state, buffers.

After Rajbhandari et al., 2020, "ZeRO", section 3.1, and what DeepSpeed does beyond it: gradients are accumulated in
float32 whatever the model's type is, stage 1 keeps all of them on every rank, stages 1 and 2 have a second copy of
float32 parameters, and buckets have a fixed size. `tests/orchestrator/job/memory/test_model_states.py` compares
the figures with the tensors of real engines.
"""

from dataclasses import dataclass

from learner.settings import LearnerSettings
from orchestrator.job.memory.parameters import BYTES, Parameters

_FULL = 4
"""Bytes of a float32 number: of a gradient, a master copy, and each of AdamW's two moments."""
_STATE = 3 * _FULL


@dataclass(frozen=True, slots=True)
class Buffers:
    """Elements of DeepSpeed's buffers: its defaults, which `learner.training.engine` leaves."""

    reduce: int = 500_000_000
    """`reduce_bucket_size`: gradients that are reduced together."""
    flat: int = 500_000_000
    """The same without ZeRO, where it cannot be set."""
    live: int = 1_000_000_000
    """`stage3_max_live_parameters`: parameters that ZeRO-3 has gathered at a time."""
    group: int = 1_000_000_000
    """`sub_group_size`: parameters that a ZeRO-3 optimizer steps at a time."""
    norm: int = 250_000_000
    """Most elements of a gradient whose norm is computed at once, with offloading."""


@dataclass(frozen=True, slots=True)
class ModelStates:
    """Bytes of one rank. What is needed at one point of a step is on top of what is always held."""

    held: int
    """On the GPU between steps."""
    computing: int
    """While a micro-batch is computed."""
    reducing: int
    """After the last backward pass, whose activations are free by then."""
    stepping: int
    """While the optimizer steps."""
    starting: int
    """In all, while the engine is built."""
    cpu: int
    """In CPU memory between steps."""
    cpu_computing: int = 0
    """In CPU memory while micro-batches are computed."""

    @property
    def most(self) -> int:
        """The most on the GPU, without activations."""
        return max(self.starting, self.held + max(self.computing, self.reducing, self.stepping))


def model_states(learner: LearnerSettings, parameters: Parameters, buffers: Buffers | None = None) -> ModelStates:
    """Return what one rank holds under the ZeRO stage of its settings."""
    buffers = buffers or Buffers()
    half = learner.dtype != "float32"
    # Only with ZeRO does DeepSpeed keep float32 masters: `learner.training.engine.zero_stage`.
    stage = max(1, learner.zero_stage) if half else learner.zero_stage
    if stage == 0:
        return _unsharded(parameters, buffers)
    if stage == 3:
        return _all_sharded(learner, parameters, buffers)
    if learner.offload_optimizer:
        return _offloaded(learner, parameters, buffers, stage)
    return _state_sharded(learner, parameters, buffers, stage)


def _unsharded(parameters: Parameters, buffers: Buffers) -> ModelStates:
    """Stage 0, float32: torch's gradients and optimizer, and a flat copy of each bucket of gradients."""
    gradients = _FULL * parameters.trained
    return ModelStates(
        held=_FULL * parameters.total + 2 * _FULL * parameters.trained,
        computing=gradients,
        reducing=gradients + _FULL * min(parameters.trained, max(buffers.flat, parameters.largest_trained)),
        stepping=gradients,
        starting=_FULL * parameters.total,
        cpu=0,
    )


def _state_sharded(learner: LearnerSettings, parameters: Parameters, buffers: Buffers, stage: int) -> ModelStates:
    """Stages 1 and 2: float32 parameters have a second copy, as bfloat16 ones have a master."""
    width, part, trained = BYTES[learner.dtype], _part(learner, parameters), parameters.trained
    held, bucket, piece = (
        width * parameters.total + _STATE * part,
        width * buffers.reduce,
        _piece(parameters, buffers),
    )
    whole, own = _FULL * trained, _FULL * part
    if stage == 1 and width < _FULL:
        # All gradients in float32 from the start, beside those of the last micro-batch.
        computing, reducing, stepping = width * trained, 2 * width * trained, width * trained
        held += whole
    elif stage == 1:
        computing, reducing, stepping = whole + bucket, whole + own + bucket, own
    else:
        # Without a change of type, the gradients of a micro-batch are beside the accumulated ones.
        computing = own * (1 if width < _FULL else 2) + bucket + _copies(width + _FULL, width, piece, learner.ranks)
        reducing, stepping = computing, own
    return ModelStates(held, computing, reducing, stepping, starting=width * parameters.total, cpu=0)


def _offloaded(learner: LearnerSettings, parameters: Parameters, buffers: Buffers, stage: int) -> ModelStates:
    """Stages 1 and 2 with the optimizer in CPU memory: gradients are accumulated on the GPU all the same."""
    width, part = BYTES[learner.dtype], _part(learner, parameters)
    whole, own, piece = _FULL * parameters.trained, _FULL * part, _piece(parameters, buffers)
    held = width * (parameters.total + parameters.largest_trained)
    cpu = (_STATE + _FULL + width) * part + width * parameters.largest_trained
    accumulated = 0
    if stage == 1:
        computing = whole + _FULL * (buffers.reduce + piece)
        accumulated = own if width < _FULL else 0
    elif width < _FULL:
        computing = own + width * buffers.reduce + _copies(width + 2 * _FULL, width, piece, learner.ranks)
    else:
        held += own
        computing = _FULL * buffers.reduce + _copies(width + 2 * _FULL, width, piece, learner.ranks)
    return ModelStates(held, computing, computing, 0, width * parameters.total, cpu, accumulated)


def _all_sharded(learner: LearnerSettings, parameters: Parameters, buffers: Buffers) -> ModelStates:
    """Stage 3: everything divided among the ranks, and gathered a few layers at a time."""
    width, ranks, part = BYTES[learner.dtype], learner.ranks, _part(learner, parameters)
    weights, bucket = -(-width * parameters.total // ranks), width * buffers.reduce
    own, piece = _FULL * part, _piece(parameters, buffers)
    # One rank has every parameter already.
    live = width * min(parameters.total, buffers.live + parameters.largest) if ranks > 1 else 0
    # A bucket of gradients, and this rank's part of it in float32.
    computing = live + width * piece + _FULL * piece // ranks
    stepping = _FULL * min(part, buffers.group + parameters.largest_trained // ranks)
    on_gpu, cpu = bucket, 0
    if learner.offload_optimizer:
        # The copies of which a gradient's norm is computed.
        computing += 2 * _FULL * min(parameters.largest_trained // ranks, buffers.norm)
        # Gradients twice: as they are accumulated, and in the order of the optimizer.
        cpu += (_STATE + 2 * _FULL) * part
        stepping = 0
    else:
        on_gpu += _STATE * part + own
    if learner.offload_parameters:
        cpu += weights
    else:
        on_gpu += weights
    # The whole model is on the GPU before it is divided, parameter by parameter.
    starting = width * (parameters.total + parameters.largest)
    return ModelStates(on_gpu, computing, computing, stepping, starting, cpu)


def _copies(of_part: int, of_whole: int, piece: int, ranks: int) -> int:
    """Return the copies of gradients that are reduced: of this rank's part, and of a layer that is in the bucket."""
    return of_part * piece // ranks + of_whole * piece // 4


def _part(learner: LearnerSettings, parameters: Parameters) -> int:
    """Return the trained parameters of one rank."""
    return -(-parameters.trained // learner.ranks)


def _piece(parameters: Parameters, buffers: Buffers) -> int:
    """Return the gradients that are reduced at once: a bucket, or one that is larger by itself."""
    return min(parameters.trained, max(buffers.reduce, parameters.largest_trained))
