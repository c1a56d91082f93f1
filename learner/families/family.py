"""The interface of a model family: what the learner needs to know to train it."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from audio_qa.families import FamilyFacts


class Part(StrEnum):
    """A part of an audio language model, trained or frozen as a whole."""

    AUDIO_TOWER = "audio_tower"
    PROJECTOR = "projector"
    LANGUAGE_MODEL = "language_model"
    """Includes the head."""
    FIXED = "fixed"
    """Never trained: sinusoidal positions, and modules that audio questions do not use."""


Slice = tuple[int | slice, ...]
"""The part of a parameter that is one tensor of a checkpoint; empty for the whole."""


class Family(ABC):
    """One architecture of transformers. A family is stateless: the model is always an argument."""

    facts: ClassVar[FamilyFacts]
    """Facts shared with the rollout workers."""
    model_class: ClassVar[Any]
    """The model class in transformers."""
    prefixes: ClassVar[Mapping[str, str]]
    """Prefixes of transformers' module names to those of a checkpoint that transformers and vLLM both load."""
    parts: ClassVar[Mapping[str, Part]]
    """Part by prefix of the name in a checkpoint; the first match wins."""

    def load(self, folder: str, dtype: torch.dtype, **settings: Any) -> tuple[PreTrainedModel, list[str]]:
        """Return the model of a checkpoint, on the CPU, and in words what of its weights is not the model's.

        Weights outside `facts.weights`, such as a talker's, are left out. Only safetensors are read. `settings` replace
        those of config.json.
        """
        model, report = self.model_class.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **settings,
        )
        for name, parameter in self.named_parameters(model):
            if self.part(name) is Part.FIXED:
                parameter.requires_grad_(False)
        mismatched = sorted(name for name, *_ in report["mismatched_keys"])
        faults = {
            "lacks": sorted(set(report["missing_keys"]) - set(mismatched)),
            "has in another shape": mismatched,
            "has without a place in the model": sorted(
                name for name in report["unexpected_keys"] if name.startswith(self.facts.weights)
            ),
        }
        return model, [
            f"{fault} {len(names)} parameters, for example {names[0]}" for fault, names in faults.items() if names
        ]

    def config(self, model: PreTrainedModel) -> PreTrainedConfig:
        """Return the contents of config.json for a checkpoint of a model that was made here, not loaded."""
        model.config.architectures = [type(model).__name__]
        return model.config

    def update_config(self, config: dict[str, Any], model: PreTrainedModel) -> None:
        """Set what a checkpoint's config.json has of its own in the `config` that its model was loaded with."""
        config["architectures"] = [type(model).__name__]

    @abstractmethod
    def audio_token_id(self, model: PreTrainedModel) -> int:
        """Return the id of the placeholder token for one audio embedding in a prompt."""

    @abstractmethod
    def vocabulary_size(self, model: PreTrainedModel) -> int:
        """Return the number of rows of the head."""

    @abstractmethod
    def decoder(self, model: PreTrainedModel) -> Any:
        """Return the language model without its head."""

    @abstractmethod
    def head(self, model: PreTrainedModel) -> nn.Module:
        """Return the module that maps hidden states, shape (N, H), to logits, shape (N, V)."""

    def logits_scaling(self, model: PreTrainedModel) -> float:
        """Return the divisor of the head's output that gives the model's logits."""
        return 1.0

    @abstractmethod
    def tower(self, model: PreTrainedModel) -> nn.Module:
        """Return the module of the audio tower."""

    @abstractmethod
    def features(self, outputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
        """Return the log-mel features to keep from a prompt's processor outputs, shape (M, F), and the valid frames."""

    @abstractmethod
    def encode(
        self, model: PreTrainedModel, mels: Sequence[torch.Tensor], valid_frames: Sequence[int]
    ) -> list[torch.Tensor]:
        """Return the audio tower's output for each clip, shape (A, E), before the projector.

        It is called for clips of one pass, and calls each of the tower's modules exactly once, whatever the number of
        clips: under ZeRO-3 a call gathers the module's parameters on all ranks.

        Args:
            mels: features of clips with equal `pass_key`.
            valid_frames: number of valid frames of each.
        """

    def pass_key(self, mel: torch.Tensor, valid_frames: int) -> Hashable:
        """Return a key of a clip: the tower encodes clips with equal keys in one pass. By default all clips have one.

        It depends on the shape of the features only.
        """
        return None

    @abstractmethod
    def project(self, model: PreTrainedModel, encoded: torch.Tensor) -> torch.Tensor:
        """Map the tower's output, shape (A, E), to embeddings of the language model, shape (A, H)."""

    def position_ids(self, positions: torch.Tensor) -> torch.Tensor:
        """Return the decoder's position ids for int64 positions of shape (1, T)."""
        return positions

    def canonical_name(self, module_name: str) -> str:
        """Return the checkpoint name of a parameter that transformers' module calls `module_name`."""
        for module_prefix, canonical_prefix in self.prefixes.items():
            if module_name.startswith(module_prefix):
                return canonical_prefix + module_name.removeprefix(module_prefix)
        raise ValueError(f"parameter {module_name!r} has no known name in a {self.facts.model_type} checkpoint")

    def stored(self, canonical: str, shape: Sequence[int]) -> list[tuple[str, Slice]]:
        """Return the checkpoint's tensors of a parameter by name, each with its part of the parameter."""
        return [(canonical, ())]

    def part(self, canonical: str) -> Part:
        """Return the part that a parameter belongs to."""
        for prefix, part in self.parts.items():
            if canonical.startswith(prefix):
                return part
        return Part.LANGUAGE_MODEL

    def named_parameters(self, model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield every parameter with its canonical name, in the module's order."""
        for name, parameter in model.named_parameters():
            yield self.canonical_name(name), parameter
