"""How large a model is, part by part: from the headers of its weights, or from what is published of it."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal

PartName = Literal["audio_tower", "projector", "decoder", "embedding", "head", "other"]

_PLACES: tuple[tuple[str, PartName], ...] = (
    ("audio_tower.proj.", "projector"),  # Qwen2.5-Omni's
    ("audio_tower.", "audio_tower"),
    ("multi_modal_projector.", "projector"),
    ("embed_tokens.", "embedding"),
    ("lm_head.", "head"),
    ("visual.", "other"),
)
"""What the name of a weight holds, by the first that fits; all others are the decoder's."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Parameters of a model's parts, and the widths that adapters have in them."""

    audio_tower: int = 0
    projector: int = 0
    decoder: int = 0
    """The language model without its vocabulary."""
    embedding: int = 0
    head: int = 0
    """From hidden states to the vocabulary; 0 where the embedding serves."""
    other: int = 0
    """What never trains, as a vision tower."""
    audio_tower_width: int = 0
    """Inputs and outputs of the audio tower's linear layers, added up: what an adapter of rank 1 has there."""
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
        """Parameters that turn a hidden state into logits."""
        return self.head or self.embedding


def sizes_of(folder: Path, prefix: str = "") -> Sizes:
    """Of a safetensors checkpoint, from its headers: the weights whose names begin with `prefix`."""
    parameters: Counter[str] = Counter()
    widths: Counter[str] = Counter()
    for name, shape in _shapes(folder):
        if not name.startswith(prefix):
            continue
        part = next((part for mark, part in _PLACES if mark in name), "decoder")
        parameters[part] += prod(shape)
        if len(shape) == 2 and "embed_positions" not in name:
            widths[part] += sum(shape)
    trained = ("audio_tower", "projector", "decoder")
    return Sizes(**parameters, **{f"{part}_width": widths[part] for part in trained})


def _shapes(folder: Path) -> Iterator[tuple[str, list[int]]]:
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, tensor in header.items():
            if name != "__metadata__":
                yield name, tensor["shape"]


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
    """A Whisper encoder, a linear projector and a Qwen2 decoder with as many key and value heads as query heads."""
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
"""Of the tiny model (`learner/tiny/architecture.py`)."""

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
"""By the name of the model, for jobs whose model is still to be filled in."""
