"""Sizes of published models, from their configurations: for jobs with a placeholder in place of a folder."""

from orchestrator.job.memory.sizes import Sizes, sizes_from_dimensions

_WHISPER_LARGE = {"D": 1280, "F": 5120, "M": 128, "P": 1500}
"""The encoder of Whisper large v3, from which the towers were made."""
_TOWER_LAYERS = 32

TINY_SIZES = sizes_from_dimensions(
    "qwen2_audio",
    {"D": 128, "F": 512, "M": 64, "P": 100, "H": 192, "I": 512, "V": 549, "Q": 192, "K": 192},
    layers=4,
    tower_layers=2,
)
"""Sizes of the tiny model (`learner/tiny/architecture.py`)."""

_QWEN2_AUDIO_7B = sizes_from_dimensions(
    "qwen2_audio",
    _WHISPER_LARGE | {"H": 4096, "I": 11_008, "V": 156_032, "Q": 4096, "K": 4096},
    layers=32,
    tower_layers=_TOWER_LAYERS,
)
_QWEN2_5_OMNI_3B = sizes_from_dimensions(
    "qwen2_5_omni",
    _WHISPER_LARGE | {"H": 2048, "I": 11_008, "V": 151_936, "Q": 2048, "K": 256},
    layers=36,
    tower_layers=_TOWER_LAYERS,
    other=668_684_288,
)
_QWEN2_5_OMNI_7B = sizes_from_dimensions(
    "qwen2_5_omni",
    _WHISPER_LARGE | {"H": 3584, "I": 18_944, "V": 152_064, "Q": 3584, "K": 512},
    layers=28,
    tower_layers=_TOWER_LAYERS,
    other=676_550_144,
)
_QWEN3_OMNI_30B = sizes_from_dimensions(
    "qwen3_omni_moe",
    _WHISPER_LARGE | {"C": 480, "W": 7680, "H": 2048, "V": 152_064, "Q": 4096, "K": 512, "A": 128, "E": 128, "X": 768},
    layers=48,
    tower_layers=_TOWER_LAYERS,
    experts_used=8,
    other=538_631_408,
)
_GLM_ASR = sizes_from_dimensions(
    "glmasr",
    _WHISPER_LARGE | {"H": 2048, "I": 6144, "V": 59_264, "Q": 2048, "K": 512, "W": 4096},
    layers=28,
    tower_layers=_TOWER_LAYERS,
)

PUBLISHED: dict[str, Sizes] = {
    "Qwen2-Audio-7B": _QWEN2_AUDIO_7B,
    "Qwen2-Audio-7B-Instruct": _QWEN2_AUDIO_7B,
    "Qwen2.5-Omni-3B": _QWEN2_5_OMNI_3B,
    "Qwen2.5-Omni-7B": _QWEN2_5_OMNI_7B,
    "Qwen3-Omni-30B-A3B-Instruct": _QWEN3_OMNI_30B,
    "Qwen3-Omni-30B-A3B-Thinking": _QWEN3_OMNI_30B,
    "GLM-ASR-Nano-2512": _GLM_ASR,
}
"""By model name. Of Qwen's Omni models the sizes are those of the thinker, with its vision tower, as the learner loads
them; a talker is not loaded."""
