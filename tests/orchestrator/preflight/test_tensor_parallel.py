"""A number of processes that cannot share a model's heads is refused before anything starts."""

import json

import pytest

from learner.tiny.architecture import make_config, make_processor
from orchestrator.job.sections.model import TINY_HEADS
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError
from orchestrator.preflight.model_folder import check_tensor_parallel


def job(path, parts):
    return JobSpec.model_validate(
        {
            "model": {"path": str(path), "max_context": 512},
            "data": {"train": "builtin:synthetic"},
            "rollout": {"tensor_parallel": parts},
        }
    )


def test_the_built_in_model():
    text = make_config(make_processor()).text_config
    assert (text.num_attention_heads, text.num_key_value_heads) == (TINY_HEADS, TINY_HEADS)
    check_tensor_parallel(job("builtin:tiny-qwen2-audio", 3))
    with pytest.raises(SpecError, match=r"4 processes cannot share the 6 attention heads .* to 2 or 3 or 6"):
        check_tensor_parallel(job("builtin:tiny-qwen2-audio", 4))


@pytest.mark.parametrize(
    ("heads", "keys", "parts", "fits"),
    [
        (28, 4, 2, True),
        (28, 4, 4, True),
        (28, 4, 7, False),
        (28, 4, 8, False),
        (32, 4, 8, True),
        (32, 4, 64, False),
        (16, None, 8, True),
        (14, 2, 7, False),
    ],
)
def test_a_folder(tmp_path, heads, keys, parts, fits):
    text = {"num_attention_heads": heads} | ({"num_key_value_heads": keys} if keys else {})
    config = {"model_type": "qwen2_audio", "architectures": ["Qwen2AudioForConditionalGeneration"], "text_config": text}
    (tmp_path / "config.json").write_text(json.dumps(config))
    if fits:
        check_tensor_parallel(job(tmp_path, parts))
    else:
        with pytest.raises(SpecError, match=f"rollout.tensor_parallel: {parts} processes cannot share the {heads} "):
            check_tensor_parallel(job(tmp_path, parts))
