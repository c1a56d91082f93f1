"""The architectures Earshot can train, and what sampling from one and training it must both know of it.

The learner's adapter of an architecture is in `learner.families`, what vLLM needs told of it in
`rollout_workers.engine.models`; the facts that both sides must agree on are here. Nothing here imports transformers or
torch: a job is checked without them.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class FamilyFacts:
    """One architecture. All of them hear with a Whisper encoder: 100 mel frames a second, one embedding for each 4."""

    name: str
    """For people."""
    model_type: str
    """As config.json has it."""
    audio_token: str
    """The placeholder that stands for a clip in a chat, and for one embedding of it in a prompt."""
    text_config: tuple[str, ...] = ("text_config",)
    """Where config.json describes the language model."""
    weights: str = ""
    """How the names of the trained model's weights begin; a checkpoint may hold others, which are left alone."""
    longest_seconds: float = 30.0
    """A longer clip is not heard whole, whatever the feature extractor would take."""

    def hears_seconds(self, feature_extractor: Any) -> float:
        """The longest clip that a checkpoint with this feature extractor hears whole."""
        return float(min(feature_extractor.chunk_length, self.longest_seconds))

    def audio_tokens(self, mel_frames: int) -> int:
        """Embeddings, and tokens of the prompt, that a clip becomes: a convolution of stride 2, then a pooling of 2."""
        return ((mel_frames - 1) // 2 + 1) // 2


FACTS: dict[str, FamilyFacts] = {
    facts.model_type: facts
    for facts in (
        FamilyFacts("Qwen2-Audio", "qwen2_audio", "<|AUDIO|>"),
        FamilyFacts(
            # vLLM makes room for 30 s of sound, though the feature extractor takes 300.
            "Qwen2.5-Omni",
            "qwen2_5_omni",
            "<|AUDIO|>",
            text_config=("thinker_config", "text_config"),
            weights="thinker.",
        ),
        # Longer clips would be cut into windows of 30 s.
        FamilyFacts("Audio Flamingo 3", "audioflamingo3", "<sound>"),
    )
}
"""By the `model_type` of config.json."""


def facts_of(folder: str) -> FamilyFacts:
    """The family of the checkpoint in `folder`. Raises KeyError for one that is not known."""
    return FACTS[read_config(folder)["model_type"]]


def read_config(folder: str) -> dict[str, Any]:
    """A checkpoint's config.json."""
    config: dict[str, Any] = json.loads((Path(folder) / "config.json").read_text())
    return config


def mel_frames(samples: int, hop_length: int) -> int:
    """Mel frames that a clip of so many samples has, the last of which may be begun only."""
    return -(-samples // hop_length)
