"""What a model family must say of itself for the learner to train it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from audio_qa.families import FamilyFacts


class Part(StrEnum):
    """The parts of an audio language model, each trained or frozen as a whole."""

    AUDIO_TOWER = "audio_tower"
    PROJECTOR = "projector"
    LANGUAGE_MODEL = "language_model"
    """The head included."""
    FIXED = "fixed"
    """Never trained: sinusoids, and what no question about sound reaches."""


class Family(ABC):
    """One architecture of transformers. A family has no state: the model is always an argument."""

    facts: ClassVar[FamilyFacts]
    """What the rollout workers know of it too."""
    model_class: ClassVar[Any]
    """Of transformers."""
    prefixes: ClassVar[Mapping[str, str]]
    """From the names of transformers' module to those of a checkpoint that transformers and vLLM both load."""
    parts: ClassVar[Mapping[str, Part]]
    """The part that a checkpoint's name belongs to, by its prefix; the first that fits."""

    def load(self, folder: str, dtype: torch.dtype) -> tuple[PreTrainedModel, list[str]]:
        """The model of a checkpoint, on the CPU, and the names of parameters the checkpoint lacks."""
        model, report = self.model_class.from_pretrained(folder, dtype=dtype, output_loading_info=True)
        for name, parameter in self.named_parameters(model):
            if self.part(name) is Part.FIXED:
                parameter.requires_grad_(False)
        return model, sorted(report["missing_keys"])

    def config(self, model: PreTrainedModel) -> PreTrainedConfig:
        """What config.json of a checkpoint of this model says."""
        model.config.architectures = [type(model).__name__]
        return model.config

    @abstractmethod
    def audio_token_id(self, model: PreTrainedModel) -> int:
        """The placeholder that stands for one audio embedding in a prompt."""

    @abstractmethod
    def vocabulary_size(self, model: PreTrainedModel) -> int:
        """Rows of the head."""

    @abstractmethod
    def decoder(self, model: PreTrainedModel) -> Any:
        """The language model without its head."""

    @abstractmethod
    def head(self, model: PreTrainedModel) -> nn.Module:
        """From hidden states, shape (N, H), to logits, shape (N, V)."""

    @abstractmethod
    def tower(self, model: PreTrainedModel) -> nn.Module:
        """The module that holds the audio tower."""

    @abstractmethod
    def features(self, outputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
        """Of what the processor made of one prompt: log-mel features to keep, shape (M, F), and the valid frames."""

    @abstractmethod
    def encode(
        self, model: PreTrainedModel, mels: Sequence[torch.Tensor], valid_frames: Sequence[int]
    ) -> list[torch.Tensor]:
        """The audio tower's output for each clip, shape (A, E), before the projector."""

    @abstractmethod
    def project(self, model: PreTrainedModel, encoded: torch.Tensor) -> torch.Tensor:
        """From the tower's output, shape (A, E), to embeddings of the language model, shape (A, H)."""

    def position_ids(self, positions: torch.Tensor) -> torch.Tensor:
        """What the decoder takes as positions, from int64 of shape (1, T)."""
        return positions

    def canonical_name(self, module_name: str) -> str:
        """The checkpoint's name of a parameter that transformers' module calls `module_name`."""
        for module_prefix, canonical_prefix in self.prefixes.items():
            if module_name.startswith(module_prefix):
                return canonical_prefix + module_name.removeprefix(module_prefix)
        raise ValueError(f"parameter {module_name!r} has no known place in a {self.facts.model_type} checkpoint")

    def part(self, canonical: str) -> Part:
        """The part that a parameter belongs to."""
        for prefix, part in self.parts.items():
            if canonical.startswith(prefix):
                return part
        return Part.LANGUAGE_MODEL

    def named_parameters(self, model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
        """Every parameter with its canonical name, in the module's order."""
        for name, parameter in model.named_parameters():
            yield self.canonical_name(name), parameter
