"""Facts of model families, against the lengths of published models."""

from types import SimpleNamespace

import pytest

from audio_qa.families import FACTS, mel_frames

OTHER_LENGTHS = {"qwen3_omni_moe": 390, "glmasr": 375, "granite_speech": 300}
"""Tokens of thirty seconds by `model_type`, where they are not Whisper's 750."""


@pytest.mark.parametrize("model_type", FACTS)
def test_the_tokens_of_thirty_seconds(model_type: str) -> None:
    assert FACTS[model_type].clip_tokens(30 * 16_000, 160) == OTHER_LENGTHS.get(model_type, 750)


@pytest.mark.parametrize(
    ("samples", "tokens"),
    [(160, 0), (161, 1), (1280, 1), (1281, 2), (15_840, 13), (16_000, 13), (16_001, 14), (17_281, 15), (32_000, 26)],
)
def test_qwen3_omni_hears_second_by_second(samples: int, tokens: int) -> None:
    assert FACTS["qwen3_omni_moe"].clip_tokens(samples, 160) == tokens


@pytest.mark.parametrize(
    ("samples", "tokens"), [(256, 0), (257, 3), (4959, 3), (4960, 6), (9759, 6), (9760, 9), (16_000, 12)]
)
def test_granite_speech_hears_in_windows_of_thirty_frames(samples: int, tokens: int) -> None:
    """A frame is at every 160th sample, the first one included, and two of them are one of the tower's."""
    assert FACTS["granite_speech"].clip_tokens(samples, 160) == tokens


@pytest.mark.parametrize(("samples", "tokens"), [(960, 0), (961, 1), (2240, 1), (2241, 2), (16_000, 12)])
def test_glm_asr_merges_four_frames(samples: int, tokens: int) -> None:
    assert FACTS["glmasr"].clip_tokens(samples, 160) == tokens


@pytest.mark.parametrize(("samples", "tokens"), [(0, 0), (1, 0), (320, 0), (321, 1), (16_000, 25), (16_001, 25)])
def test_a_clip_needs_more_than_two_frames(samples: int, tokens: int) -> None:
    assert FACTS["qwen2_audio"].audio_tokens(mel_frames(samples, 160)) == tokens


@pytest.mark.parametrize(
    ("model_type", "chunk_length"), [("qwen2_audio", 30), ("qwen2_5_omni", 300), ("qwen3_omni_moe", 300)]
)
def test_no_more_than_thirty_seconds_are_heard(model_type: str, chunk_length: int) -> None:
    facts = FACTS[model_type]
    assert facts.max_clip_seconds(SimpleNamespace(chunk_length=chunk_length)) == 30
    assert facts.max_clip_seconds(SimpleNamespace(chunk_length=2)) == 2
