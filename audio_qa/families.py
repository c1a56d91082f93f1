"""The model families that Earshot can train, with the facts that learner and rollout workers share.

The learner's adapter of a family is in `learner.families`, the configuration of vLLM for it in
`rollout_workers.engine.models`. This module does not import transformers or torch, so that jobs can be checked without
them.
"""

from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from audio_qa.errors import shown
from audio_qa.model_folder.documents import ModelError, read_object


@dataclass(frozen=True, slots=True)
class FamilyFacts:
    """One model family. All have a Whisper encoder: 100 mel frames a second, one embedding for every 4 frames."""

    name: str
    """Name for display."""
    model_type: str
    """`model_type` of config.json."""
    audio_token: str
    """Placeholder of a clip in a chat, and of each of its embeddings in a prompt."""
    text_config: tuple[str, ...] = ("text_config",)
    """Keys of config.json that lead to the configuration of the language model."""
    weights: str = ""
    """Prefix of the names of the trained model's weights; other weights of a checkpoint are left unchanged."""
    longest_seconds: float = 30.0
    """Maximum clip length in seconds, even if the feature extractor accepts longer clips."""

    def max_clip_seconds(self, feature_extractor: Any) -> float:
        """Return the maximum clip length, in seconds, of a checkpoint with this feature extractor."""
        return float(min(feature_extractor.chunk_length, self.longest_seconds))

    def audio_tokens(self, mel_frames: int) -> int:
        """Return the number of embeddings (prompt tokens) of a clip: a convolution of stride 2, then a pooling of 2."""
        return ((mel_frames - 1) // 2 + 1) // 2

    def least_samples(self, hop_length: int) -> int:
        """Return the length of the shortest clip that gives an embedding, in samples."""
        return next(frames * hop_length + 1 for frames in count() if self.audio_tokens(frames + 1))

    def too_short(self, samples: int, hop_length: int) -> str:
        """Return why a clip of this length gives no embedding; empty if it gives one."""
        least = self.least_samples(hop_length)
        if samples >= least:
            return ""
        return f"{samples} samples at 16 kHz are too few for one audio token, which needs {least}"


FACTS: dict[str, FamilyFacts] = {
    facts.model_type: facts
    for facts in (
        FamilyFacts("Qwen2-Audio", "qwen2_audio", "<|AUDIO|>"),
        FamilyFacts(
            # vLLM reserves space for 30 s of sound, though the feature extractor accepts 300 s.
            "Qwen2.5-Omni",
            "qwen2_5_omni",
            "<|AUDIO|>",
            text_config=("thinker_config", "text_config"),
            weights="thinker.",
        ),
        # Longer clips would be split into windows of 30 s.
        FamilyFacts("Audio Flamingo 3", "audioflamingo3", "<sound>"),
    )
}
"""By the `model_type` of config.json."""


def facts_of(folder: str) -> FamilyFacts:
    """Return the family of the checkpoint in `folder`. Raises ModelError for an unknown family or no configuration."""
    model_type = read_config(folder).get("model_type")
    if model_type == "qwen2_5_omni_thinker":
        raise ModelError(
            f"{folder!r} is a thinker alone, which vLLM does not load; name a folder in the layout of the published "
            "Qwen2.5-Omni (model_type qwen2_5_omni, with or without a talker)"
        )
    if not isinstance(model_type, str) or model_type not in FACTS:
        raise ModelError(f"{folder!r} is a {shown(model_type)} model; Earshot trains {', '.join(FACTS)}")
    return FACTS[model_type]


def read_config(folder: str) -> dict[str, Any]:
    """Return the config.json of a checkpoint. Raises ModelError if it cannot be used."""
    return read_object(Path(folder) / "config.json")


def mel_frames(samples: int, hop_length: int) -> int:
    """Return the number of mel frames of a clip; the last one may be incomplete."""
    return -(-samples // hop_length)
