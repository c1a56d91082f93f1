"""Number of parameters of a model, by part: from the headers of its weights, or from published figures."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal

from audio_qa.families import FACTS, FamilyFacts, facts_of, read_config
from audio_qa.model_folder.layouts import LAYOUTS
from audio_qa.model_folder.weights import stored_weights

PartName = Literal["audio_tower", "projector", "decoder", "embedding", "head", "experts", "other"]

Weights = Iterable[tuple[str, Sequence[int], int]]
"""Name and shape of some weights of a checkpoint, and how many equal ones each stands for."""

_SECONDS = 30
_FRAMES_PER_SECOND = 100
_LAYER = re.compile(r"layers\.(\d{1,6})\.")
_EXPERTS_USED = "num_experts_per_tok"


@dataclass(frozen=True, slots=True)
class Sizes:
    """Number of parameters of each part, and the dimensions that memory depends on.

    A width is the sum of inputs and outputs of a part's linear layers: the parameters of its adapters of rank 1.
    """

    audio_tower: int = 0
    projector: int = 0
    decoder: int = 0
    """The language model without its vocabulary and its experts."""
    embedding: int = 0
    head: int = 0
    """From hidden states to the vocabulary; 0 if it is tied to the embedding."""
    experts: int = 0
    """The experts of all layers, and their routers: they never train."""
    other: int = 0
    """Other parts that never train, such as a vision tower."""
    audio_tower_width: int = 0
    projector_width: int = 0
    decoder_width: int = 0
    experts_width: int = 0
    expert_share: float = 0.0
    """Share of the experts that one token is computed with."""
    layers: int = 0
    """Layers of the decoder."""
    hidden: int = 0
    """Numbers of a token between two layers of the decoder."""
    keys: int = 0
    """Sum over the decoder's layers of the numbers in a token's key."""
    tower_layers: int = 0
    tower_hidden: int = 0
    audio_tokens_per_second: float = 25.0

    @property
    def total(self) -> int:
        return self.audio_tower + self.projector + self.decoder + self.vocabularies + self.experts + self.other

    @property
    def vocabularies(self) -> int:
        return self.embedding + self.head

    @property
    def language_model(self) -> int:
        """Parameters of the language model that can train."""
        return self.decoder + self.vocabularies

    @property
    def vocabulary(self) -> int:
        """Number of parameters that turn a hidden state into logits."""
        return self.head or self.embedding

    @property
    def tokens(self) -> int:
        """Number of tokens in the vocabulary."""
        return self.vocabulary // max(1, self.hidden)

    @property
    def used_decoder(self) -> int:
        """Parameters of the decoder that one token is computed with."""
        return self.decoder + round(self.expert_share * self.experts)

    @property
    def used_width(self) -> int:
        """Width of the decoder's layers that one token is computed with."""
        return self.decoder_width + round(self.expert_share * self.experts_width)


def sizes_of(folder: Path) -> Sizes:
    """Return the sizes of a safetensors checkpoint from its headers, without the parts that the learner does not load.

    Raises ModelError if its weights are not whole, or its family is unknown.
    """
    config = read_config(str(folder))
    weights = ((name, stored.shape, 1) for name, stored in stored_weights(folder).items())
    return _sizes(facts_of(str(folder)), weights, _number(config, _EXPERTS_USED))


def _sizes(facts: FamilyFacts, weights: Weights, experts_used: int = 0) -> Sizes:
    """Return the sizes of a family's model with these weights."""
    parameters: Counter[str] = Counter()
    widths: Counter[str] = Counter()
    layers: Counter[str] = Counter()
    hidden: dict[str, int] = {}
    keys = experts = 0
    for name, shape, times in weights:
        if not name.startswith(facts.weights):
            continue
        part = _part(facts.model_type, name)
        parameters[part] += times * prod(shape)
        layer = _LAYER.search(name)
        if len(shape) == 2 and (layer or part == "projector"):
            widths[part] += times * sum(shape)
        if part == "embedding":
            hidden["decoder"] = shape[1]
        if layer:
            layers[part] = max(layers[part], int(layer[1]) + 1)
            if len(shape) == 2:
                hidden.setdefault(part, shape[1])
            keys += shape[0] if part == "decoder" and name.endswith("self_attn.k_proj.weight") else 0
        if part == "experts" and name.endswith("mlp.gate.weight"):
            experts = shape[0]
    rate = facts.audio_tokens(_SECONDS * _FRAMES_PER_SECOND) / _SECONDS
    counted = ("audio_tower", "projector", "decoder", "experts")
    return Sizes(
        **parameters,
        **{f"{part}_width": widths[part] for part in counted},
        expert_share=min(1.0, (experts_used or experts) / experts) if experts else 0.0,
        layers=layers["decoder"],
        hidden=hidden.get("decoder", 0),
        keys=keys,
        tower_layers=layers["audio_tower"],
        tower_hidden=hidden.get("audio_tower", 0),
        audio_tokens_per_second=rate,
    )


def _part(model_type: str, name: str) -> PartName:
    """Return the part that a weight belongs to: the first that its name is of."""
    layout = LAYOUTS[model_type]
    in_decoder = name.startswith(layout.decoder)
    projectors = [f"{projector}." for projector in layout.projector] + [layout.query_former] * bool(layout.query_former)
    parts: dict[PartName, bool] = {
        "head": name == layout.head,
        "projector": name.startswith(tuple(projectors)),
        "audio_tower": name.startswith(layout.tower),
        "embedding": in_decoder and name.endswith("embed_tokens.weight"),
        "experts": in_decoder and (".mlp.experts." in name or name.endswith("mlp.gate.weight")),
        "decoder": in_decoder,
    }
    return next((part for part, is_of in parts.items() if is_of), "other")


def _number(config: Mapping[str, object], key: str) -> int:
    """Return a number of a configuration or of one of its sections; 0 if none has it."""
    for name, value in config.items():
        if name == key and isinstance(value, int):
            return value
        if isinstance(value, dict) and (found := _number(value, key)):
            return found
    return 0


def sizes_from_dimensions(
    model_type: str,
    dimensions: Mapping[str, int],
    *,
    layers: int,
    tower_layers: int,
    tied: bool = False,
    experts_used: int = 0,
    other: int = 0,
) -> Sizes:
    """Return the sizes of a model whose configuration has these dimensions.

    Args:
        dimensions: by the letters of `audio_qa.model_folder.layouts`.
        tied: the head is the embedding.
        experts_used: experts of a token in each layer.
        other: parameters of parts that audio questions do not use, and that the learner loads.
    """
    layout = LAYOUTS[model_type]

    def weights() -> Weights:
        for part, own, each, count in (
            (layout.decoder, layout.decoder_ends, layout.decoder_layer, layers),
            (layout.tower, {**layout.tower_start, **layout.tower_ends}, layout.tower_layer, tower_layers),
        ):
            yield from ((part + name, shape(letters), 1) for name, letters in own.items())
            for i in range(count):
                yield from ((f"{part}layers.{i}.{name}", shape(letters), 1) for name, letters in each.items())
        for i in range(layers if layout.expert else 0):
            for name, letters in layout.expert.items():
                yield f"{layout.decoder}layers.{i}.mlp.experts.0.{name}", shape(letters), dimensions["E"]
        for name, letters in layout.projector.items():
            yield f"{name}.weight", shape(letters), 1
            yield f"{name}.bias", shape(letters[0]), 1
        if not tied:
            yield layout.head, shape("VH"), 1
        if other:
            yield f"{FACTS[model_type].weights}other", (other,), 1

    def shape(letters: str) -> tuple[int, ...]:
        return tuple(int(letter) if letter.isdigit() else dimensions[letter] for letter in letters)

    return _sizes(FACTS[model_type], weights(), experts_used)
