"""Facts of model families, against the lengths of published models."""

from types import SimpleNamespace

import pytest

from audio_qa.families import FACTS, mel_frames


@pytest.mark.parametrize("model_type", FACTS)
def test_thirty_seconds_are_750_tokens(model_type: str) -> None:
    assert FACTS[model_type].audio_tokens(mel_frames(30 * 16_000, 160)) == 750


@pytest.mark.parametrize(("samples", "tokens"), [(0, 0), (1, 0), (320, 0), (321, 1), (16_000, 25), (16_001, 25)])
def test_a_clip_needs_more_than_two_frames(samples: int, tokens: int) -> None:
    assert FACTS["qwen2_audio"].audio_tokens(mel_frames(samples, 160)) == tokens


@pytest.mark.parametrize(("model_type", "chunk_length"), [("qwen2_audio", 30), ("qwen2_5_omni", 300)])
def test_no_more_than_thirty_seconds_are_heard(model_type: str, chunk_length: int) -> None:
    facts = FACTS[model_type]
    assert facts.max_clip_seconds(SimpleNamespace(chunk_length=chunk_length)) == 30
    assert facts.max_clip_seconds(SimpleNamespace(chunk_length=2)) == 2
