"""Number of parameters of a model, by part: from the headers of its weights, or from published figures."""

from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal

from audio_qa.model_folder.weights import stored_weights

PartName = Literal["audio_tower", "projector", "decoder", "embedding", "head", "other"]

_PARTS: tuple[tuple[str, PartName], ...] = (
    ("audio_tower.proj.", "projector"),  # Qwen2.5-Omni's
    ("audio_tower.", "audio_tower"),
    ("multi_modal_projector.", "projector"),
    ("embed_tokens.", "embedding"),
    ("lm_head.", "head"),
    ("visual.", "other"),
)
"""Part of a weight by a substring of its name; the first match counts, and all others are the decoder's."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Number of parameters of each part, and the width of adapters in it."""

    audio_tower: int = 0
    projector: int = 0
    decoder: int = 0
    """The language model without its vocabulary."""
    embedding: int = 0
    head: int = 0
    """From hidden states to the vocabulary; 0 if it is tied to the embedding."""
    other: int = 0
    """Parts that never train, such as a vision tower."""
    audio_tower_width: int = 0
    """Sum of inputs and outputs of the audio tower's linear layers: the parameters of adapters of rank 1."""
    projector_width: int = 0
    decoder_width: int = 0

    @property
    def total(self) -> int:
        return self.audio_tower + self.projector + self.decoder + self.embedding + self.head + self.other

    @property
    def language_model(self) -> int:
        return self.decoder + self.embedding + self.head

    @property
    def vocabulary(self) -> int:
        """Number of parameters that turn a hidden state into logits."""
        return self.head or self.embedding


def sizes_of(folder: Path, prefix: str = "") -> Sizes:
    """Return the sizes of a safetensors checkpoint from its headers, for names that begin with `prefix`.

    Raises ModelError if its weights are not whole.
    """
    parameters: Counter[str] = Counter()
    widths: Counter[str] = Counter()
    for name, stored in stored_weights(folder).items():
        if not name.startswith(prefix):
            continue
        shape = stored.shape
        part = next((part for substring, part in _PARTS if substring in name), "decoder")
        parameters[part] += prod(shape)
        if len(shape) == 2 and "embed_positions" not in name:
            widths[part] += sum(shape)
    trained = ("audio_tower", "projector", "decoder")
    return Sizes(**parameters, **{f"{part}_width": widths[part] for part in trained})


def whisper_and_qwen(
    *,
    tower_layers: int,
    tower_width: int,
    tower_inner: int,
    mels: int,
    positions: int,
    layers: int,
    width: int,
    inner: int,
    vocabulary: int,
) -> Sizes:
    """Return the sizes of a Whisper encoder, a linear projector and a Qwen2 decoder without grouped-query attention."""
    tower_layer = 4 * tower_width**2 + 3 * tower_width + 2 * tower_width * tower_inner + tower_inner + 5 * tower_width
    convolutions = 3 * tower_width * (mels + tower_width) + 2 * tower_width
    layer = 4 * width**2 + 3 * width + 3 * width * inner + 2 * width
    return Sizes(
        audio_tower=tower_layers * tower_layer + convolutions + positions * tower_width + 2 * tower_width,
        projector=tower_width * width + width,
        decoder=layers * layer + width,
        embedding=vocabulary * width,
        head=vocabulary * width,
        audio_tower_width=tower_layers * (8 * tower_width + 2 * (tower_width + tower_inner)),
        projector_width=tower_width + width,
        decoder_width=layers * (8 * width + 3 * (width + inner)),
    )


TINY_SIZES = whisper_and_qwen(
    tower_layers=2,
    tower_width=128,
    tower_inner=512,
    mels=64,
    positions=100,
    layers=4,
    width=192,
    inner=512,
    vocabulary=549,
)
"""Sizes of the tiny model (`learner/tiny/architecture.py`)."""

_QWEN2_AUDIO_7B = whisper_and_qwen(
    tower_layers=32,
    tower_width=1280,
    tower_inner=5120,
    mels=128,
    positions=1500,
    layers=32,
    width=4096,
    inner=11_008,
    vocabulary=156_032,
)

PUBLISHED = {"Qwen2-Audio-7B": _QWEN2_AUDIO_7B, "Qwen2-Audio-7B-Instruct": _QWEN2_AUDIO_7B}
"""Published sizes by model name, for jobs with a placeholder."""
