"""The plan's warning about engines and learner that compute in different types."""

import json

import pytest

from orchestrator.job.spec import JobSpec
from orchestrator.preflight.precision import precision_warnings


def warnings(path="yours:Qwen2-Audio-7B-Instruct", rollout=None, **more) -> list[str]:
    document = {"model": {"path": path}, "data": {"train": "t"}, "rollout": rollout or {"gpus": 1}, **more}
    return precision_warnings(JobSpec.model_validate(document))


def test_float32_in_the_learner_and_bfloat16_in_the_engines_is_said_with_what_to_do():
    (warning,) = warnings()
    for words in ("compute in bfloat16 and the learner in float32", "correction.level none", "rollout.engine.dtype"):
        assert words in warning


@pytest.mark.parametrize(
    "given",
    [
        {"learner": {"dtype": "bfloat16"}},
        {"learner": {"loss": {"correction": {"level": "token"}}}},
        {"rollout": {"gpus": 1, "max_staleness": 1}},
        {"rollout": {"gpus": 1, "engine": {"dtype": "float32"}}},
        {"method": "supervised"},
        {"rollout": {"workers": 1}},
    ],
    ids=str,
)
def test_equal_types_and_corrected_differences_need_no_warning(given):
    assert warnings(**given) == []


@pytest.mark.parametrize(
    ("config", "engine"),
    [
        ({"dtype": "float16"}, "float16"),
        ({"torch_dtype": "bfloat16"}, "bfloat16"),
        ({"thinker_config": {"text_config": {"dtype": "bfloat16"}}}, "bfloat16"),
        ({"torch_dtype": "float32"}, "bfloat16"),  # vLLM's choice on a GPU
        ({}, "bfloat16"),
        ({"text_config": None, "thinker_config": None, "dtype": "float16"}, "float16"),
        ({"text_config": None, "thinker_config": None}, "bfloat16"),
    ],
)
def test_the_type_of_a_models_files(tmp_path, config, engine):
    (tmp_path / "config.json").write_text(json.dumps(config))
    (warning,) = warnings(str(tmp_path))
    assert f"compute in {engine} " in warning


def test_on_cpus_a_type_of_the_engines_own_is_said_too():
    assert "compute in bfloat16" in warnings(rollout={"engine": {"dtype": "bfloat16"}})[0]
