"""The model families that Earshot can train, with the facts that learner and rollout workers share.

The learner's adapter of a family is in `learner.families`, the configuration of vLLM for it in
`rollout_workers.engine.models`. This module does not import transformers or torch, so that jobs can be checked without
them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from audio_qa.errors import shown
from audio_qa.model_folder.documents import ModelError, read_object


def mel_frames(samples: int, hop_length: int) -> int:
    """Return the number of mel frames of a clip; the last one may be incomplete."""
    return -(-samples // hop_length)


def centred_frames(samples: int, hop_length: int) -> int:
    """Return the number of mel frames of a clip that are centred at multiples of `hop_length`, both ends included."""
    return samples // hop_length + 1


def whisper_tokens(mel_frames: int) -> int:
    """Return Whisper's number of embeddings of a clip: a convolution of stride 2, then a pooling of 2."""
    return ((mel_frames - 1) // 2 + 1) // 2


def second_by_second_tokens(mel_frames: int) -> int:
    """Return Qwen3-Omni's number of embeddings of a clip: three convolutions of stride 2 over each second by itself.

    A second gives 13.
    """
    seconds, rest = divmod(mel_frames, 100)
    return 13 * seconds + -(-rest // 8)


def merged_tokens(mel_frames: int) -> int:
    """Return GLM-ASR's number of embeddings of a clip: a convolution of stride 2, then four neighbours are one."""
    return ((mel_frames - 1) // 2 + 1) // 4


def window_tokens(mel_frames: int) -> int:
    """Return Granite Speech's number of embeddings of a clip: pairs of frames, and three queries for each 15 pairs."""
    return 3 * -(-(mel_frames // 2) // 15)


@dataclass(frozen=True, slots=True)
class FamilyFacts:
    """One model family. All take Whisper's features: 100 mel frames a second."""

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
    tokens_of_frames: Callable[[int], int] = whisper_tokens
    """The number of embeddings of a clip of so many mel frames."""
    frames_of_samples: Callable[[int, int], int] = mel_frames
    """The number of mel frames of a clip of so many samples, with so many samples from frame to frame."""
    fewest_samples: int = 0
    """Fewest samples that the feature extractor takes."""
    audio_config: str = "audio_config"
    """Key of the configuration of the audio tower, beside that of the language model."""

    def max_clip_seconds(self, feature_extractor: Any) -> float:
        """Return the maximum clip length, in seconds, of a checkpoint with this feature extractor."""
        return float(min(feature_extractor.chunk_length, self.longest_seconds))

    def audio_tokens(self, mel_frames: int) -> int:
        """Return the number of embeddings (prompt tokens) of a clip."""
        return self.tokens_of_frames(mel_frames)

    def clip_tokens(self, samples: int, hop_length: int) -> int:
        """Return the number of embeddings of a clip of so many samples, 0 if it is too short for the model."""
        return 0 if samples < self.fewest_samples else self.audio_tokens(self.frames_of_samples(samples, hop_length))

    def least_samples(self, hop_length: int) -> int:
        """Return the length of the shortest clip that gives an embedding, in samples."""
        # The number of frames changes at these lengths.
        lengths = (n * hop_length + more for n in count() for more in (0, 1))
        return max(
            self.fewest_samples, next(n for n in lengths if self.audio_tokens(self.frames_of_samples(n, hop_length)))
        )

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
        FamilyFacts(
            # vLLM reserves space for 30 s of sound here, too.
            "Qwen3-Omni",
            "qwen3_omni_moe",
            "<|audio_pad|>",
            text_config=("thinker_config", "text_config"),
            weights="thinker.",
            tokens_of_frames=second_by_second_tokens,
            # It mirrors 200 samples at both ends of a clip, which was filled up to whole frames.
            fewest_samples=161,
        ),
        # Longer clips would be split into windows of 30 s.
        FamilyFacts("Audio Flamingo 3", "audioflamingo3", "<sound>"),
        FamilyFacts("GLM-ASR", "glmasr", "<|pad|>", tokens_of_frames=merged_tokens),
        FamilyFacts(
            "Granite Speech",
            "granite_speech",
            "<|audio|>",
            tokens_of_frames=window_tokens,
            frames_of_samples=centred_frames,
            # It mirrors half a window of 512 samples at both ends of a clip.
            fewest_samples=257,
            audio_config="encoder_config",
        ),
    )
}
"""By the `model_type` of config.json."""


def facts_of(folder: str) -> FamilyFacts:
    """Return the family of the checkpoint in `folder`. Raises ModelError for an unknown family or no configuration."""
    model_type = read_config(folder).get("model_type")
    if (
        isinstance(model_type, str)
        and (whole := FACTS.get(model_type.removesuffix("_thinker")))
        and (whole.model_type != model_type)
    ):
        raise ModelError(
            f"{folder!r} is a thinker alone, which vLLM does not load; name a folder in the layout of the published "
            f"{whole.name} (model_type {whole.model_type}, with or without a talker)"
        )
    if not isinstance(model_type, str) or model_type not in FACTS:
        raise ModelError(f"{folder!r} is a {shown(model_type)} model; Earshot trains {', '.join(FACTS)}")
    return FACTS[model_type]


def read_config(folder: str) -> dict[str, Any]:
    """Return the config.json of a checkpoint. Raises ModelError if it cannot be used."""
    return read_object(Path(folder) / "config.json")
