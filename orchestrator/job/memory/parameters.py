"""The parameters of a learner: how many there are, and how many of them have a gradient."""

from dataclasses import dataclass

from orchestrator.job.memory.sizes import Sizes
from orchestrator.job.spec import JobSpec, Method

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of a number by type."""
_LAYERS = 32
"""A part without a vocabulary is assumed to have no matrix larger than this share of it."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of a learner's model, its adapters among them."""

    total: int
    trained: int
    largest: int
    """Size of the largest single parameter."""
    largest_trained: int


def trained_parameters(spec: JobSpec, sizes: Sizes) -> int:
    """Return the number of parameters with a gradient: of the parts that train, or of their adapters."""
    train, lora = spec.learner.train, spec.learner.lora
    parts = (
        (train.audio_tower, sizes.audio_tower, sizes.audio_tower_width),
        (train.projector, sizes.projector, sizes.projector_width),
        (train.language_model, sizes.language_model, sizes.decoder_width),
    )
    return sum(lora.rank * width if lora else parameters for trains, parameters, width in parts if trains)


def published_parameters(spec: JobSpec, sizes: Sizes) -> int:
    """Return the number of parameters that a weight update contains: those that train, or that adapters change."""
    train, lora = spec.learner.train, spec.learner.lora
    parts = (
        (train.audio_tower, sizes.audio_tower),
        (train.projector, sizes.projector),
        # Adapters are merged into the linear layers, of which the vocabulary's are none.
        (train.language_model, sizes.decoder if lora else sizes.language_model),
    )
    return sum(parameters for trains, parameters in parts if trains)


def parameters_of(spec: JobSpec, sizes: Sizes) -> Parameters:
    """Return the numbers of parameters of a job's learner."""
    trained, lora = trained_parameters(spec, sizes), spec.learner.lora
    vocabulary = max(sizes.embedding, sizes.head)
    largest = max(vocabulary, sizes.decoder // _LAYERS)
    largest_trained = largest if spec.learner.train.language_model and not lora else trained // _LAYERS
    return Parameters(sizes.total + (trained if lora else 0), trained, largest, largest_trained)


def has_reference(spec: JobSpec) -> bool:
    """Return whether ranks compute log-probabilities of the reference model."""
    return spec.method is Method.REINFORCE and spec.learner.beta > 0


def reference_bytes(spec: JobSpec, sizes: Sizes) -> int:
    """Return the bytes of a rank's reference model. With adapters it is the model without them."""
    return sizes.total * BYTES[spec.learner.dtype] if has_reference(spec) and not spec.learner.lora else 0
