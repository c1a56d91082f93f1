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


def test_the_heads_of_an_audio_tower_that_is_shared_too(tmp_path):
    text = {"num_attention_heads": 16, "num_key_value_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "glmasr", "text_config": text}))
    check_tensor_parallel(job(tmp_path, 4))
    with pytest.raises(SpecError, match=r"8 processes .* 20 of the audio tower\) .* to 2 or 4$"):
        check_tensor_parallel(job(tmp_path, 8))


@pytest.mark.parametrize(("gpus", "carrier", "fits"), [(1e-9, "shared_memory", False), (1e-9, "cuda_ipc", True)])
def test_a_part_of_a_gpu_is_one_that_ray_counts(gpus, carrier, fits):
    value = {"model": {"path": "m"}, "data": {"train": "t"}, "rollout": {"gpus": gpus, "weight_sync": carrier}}
    if fits:
        JobSpec.model_validate(value)
    else:
        with pytest.raises(ValueError, match=r"gpus 1e-09 is less than Ray counts.* at least 0\.0001"):
            JobSpec.model_validate(value)


def test_a_model_that_engines_cannot_share(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "granite_speech", "text_config": {}}))
    check_tensor_parallel(job(tmp_path, 1))
    with pytest.raises(SpecError, match=r"cannot share a Granite Speech model .* raise rollout\.workers instead"):
        check_tensor_parallel(job(tmp_path, 2))


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
