"""Every job specification is immutable at every depth, and does not depend on how it was made."""

import enum
import pickle
from collections.abc import Iterator, Mapping, MutableMapping, MutableSequence, MutableSet
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from learner.losses.settings import Algorithm, LossSettings
from orchestrator.job.marked import section_of
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import dump_spec, read_spec
from protocol.frozen_mapping import FrozenMapping
from protocol.settings import Settings

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("**/*.yaml"))
SMALLEST: dict[str, Any] = {"model": {"path": "m"}, "data": {"train": "t.jsonl"}}
# Every optional section and every container, with values that are not defaults.
FULL = {
    **SMALLEST,
    "data": {
        "train": "t.jsonl",
        "evaluation": "e.jsonl",
        "columns": {"audio": "wav", "choices": ["a", "b"]},
        "curriculum": {"measured": "samples.jsonl", "min_solve_rate": 0.1},
        "synthetic_train_categories": ["tempo"],
    },
    "warm_start": {"steps": 3, "optimizer": {"schedule": "cosine"}},
    "rollout": {"gpus": 1, "max_staleness": 2, "autoscale": {"max": 4}, "limits": {"attempts": 2}},
    "reward": {
        "functions": {"accuracy": 1, "length": 0.5, "judge": 0.25, "house.rewards:own": 0},
        "length": {"target": 10, "tolerance": 5},
        "judge": {"url": "http://host/v1", "model": "m", "extra_body": {"a": {"b": [1, {"c": None}]}}},
        "allowed_modules": ["house"],
    },
    "learner": {"lora": {"rank": 4}, "loss": {"algorithm": "dapo", "clip_low": 0.1}, "audio_cache": {"folder": "c"}},
    "evaluation": {"controls": ["silence", "shuffled"]},
    "tracking": {"wandb": {}, "mlflow": {"experiment": "other"}},
}
SUPERVISED = {**SMALLEST, "method": "supervised", "supervised": {"batch_size": 3}}
EVALUATE = {"model": {"path": "m"}, "data": {"evaluation": "e.jsonl"}, "method": "evaluate"}
JOBS = {"smallest": SMALLEST, "full": FULL, "supervised": SUPERVISED, "evaluate": EVALUATE} | {
    path.stem if path.parent.name == "examples" else f"{path.parent.name}-{path.stem}": yaml.safe_load(path.read_text())
    for path in EXAMPLES
}


@pytest.fixture(params=JOBS)
def values(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The values of a job file."""
    return JOBS[request.param]


def settings_in(model: type[Settings]) -> Iterator[type[Settings]]:
    """Yield a settings class and all that its fields refer to."""
    yield model
    for field in model.model_fields.values():
        section = section_of(field.annotation)
        if section is not None:
            yield from settings_in(section)


def nodes(value: object) -> Iterator[object]:
    """Yield a value and everything in it, at every depth."""
    yield value
    if isinstance(value, BaseModel):
        for _, item in value:
            yield from nodes(item)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from nodes(key)
            yield from nodes(item)
    elif isinstance(value, tuple | list | set | frozenset):
        for item in value:
            yield from nodes(item)


def construct(model: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Make settings by the constructors of all sections, from the innermost."""
    made = {}
    for name, value in values.items():
        section = section_of(model.model_fields[name].annotation)
        made[name] = construct(section, value) if section is not None and isinstance(value, dict) else value
    return model(**made)


def test_all_settings_have_the_frozen_base():
    for model in settings_in(JobSpec):
        assert issubclass(model, Settings), model
        assert model.model_config["frozen"], model
        assert model.model_config["extra"] == "forbid", model
        assert model.model_config["allow_inf_nan"] is False, model


def test_no_field_can_be_assigned_or_deleted(values):
    spec = JobSpec.model_validate(values)
    for node in nodes(spec):
        if isinstance(node, BaseModel):
            for name in type(node).model_fields:
                with pytest.raises(ValidationError, match="frozen"):
                    setattr(node, name, getattr(node, name))
                with pytest.raises(ValidationError, match="frozen"):
                    delattr(node, name)


def test_nothing_in_a_specification_can_be_changed_in_place(values):
    spec = JobSpec.model_validate(values)
    before = spec.model_dump_json()
    for node in nodes(spec):
        assert not isinstance(node, MutableMapping | MutableSequence | MutableSet), node
        assert node is None or isinstance(
            node, Settings | FrozenMapping | tuple | str | int | float | bool | enum.Enum
        ), node
        if isinstance(node, FrozenMapping):
            with pytest.raises(TypeError):
                node["new"] = 1
            with pytest.raises(TypeError):
                del node[next(iter(node), "missing")]
            for change in ("pop", "popitem", "clear", "update", "setdefault", "__ior__"):
                assert not hasattr(node, change)
        elif isinstance(node, tuple):
            with pytest.raises(TypeError):
                node[0] = 1
            assert not hasattr(node, "append")
    assert hash(spec) == hash(JobSpec.model_validate(values))
    assert spec.model_dump_json() == before


def test_the_defaults_of_every_class_are_immutable_too():
    for model in settings_in(JobSpec):
        for field in model.model_fields.values():
            for node in nodes(field.default):
                assert not isinstance(node, MutableMapping | MutableSequence | MutableSet), (model, field)


def test_a_specification_does_not_keep_the_containers_it_was_made_from():
    values = yaml.safe_load(yaml.safe_dump(FULL))
    spec = JobSpec(**values)
    values["reward"]["functions"]["accuracy"] = 7
    values["reward"]["judge"]["extra_body"]["a"]["b"].append(2)
    values["data"]["columns"]["choices"].append("c")
    assert spec == JobSpec(**FULL)


def test_validating_does_not_change_its_input():
    values = {**SMALLEST, "rollout": {"top_p": 1.0}}
    JobSpec.model_validate(values)
    assert values["rollout"] == {"top_p": 1.0}


def test_constructor_and_validation_make_equal_specifications(values):
    validated = JobSpec.model_validate(values)
    assert JobSpec(**values) == validated
    assert JobSpec(**values).model_dump() == validated.model_dump()
    if "train" in values["data"]:
        assert construct(JobSpec, values) == validated


def test_dumping_and_validating_makes_an_equal_specification(values):
    spec = JobSpec.model_validate(values)
    assert JobSpec.model_validate(spec.model_dump()) == spec
    assert JobSpec.model_validate(spec.model_dump(mode="json")) == spec
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec
    assert JobSpec.model_validate(yaml.safe_load(dump_spec(spec))) == spec
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_a_changed_copy_survives_the_round_trip(values):
    spec = JobSpec.model_validate(values)
    copy = spec.model_copy(update={"seed": 7, "rollout": spec.rollout.model_copy(update={"threads": 9})})
    assert JobSpec.model_validate(copy.model_dump()) == copy
    assert copy != spec


def test_the_dump_holds_dicts_and_lists_only():
    dumped = JobSpec.model_validate(FULL).model_dump(mode="json")
    for node in nodes(dumped):
        assert node is None or type(node) in (dict, list, str, int, float, bool)
    assert dumped["reward"]["judge"]["extra_body"] == {"a": {"b": [1, {"c": None}]}}
    assert dumped["data"]["columns"] == {"audio": "wav", "choices": ["a", "b"]}


def test_every_example_file_equals_its_constructor():
    for path in EXAMPLES:
        assert read_spec(path) == JobSpec(**yaml.safe_load(path.read_text()))


LOSS = st.fixed_dictionaries(
    {},
    optional={
        "algorithm": st.sampled_from(Algorithm),
        "advantage": st.sampled_from([None, "group", "centred", "leave_one_out"]),
        "aggregate": st.sampled_from([None, "token_mean", "constant"]),
        "clip_low": st.none() | st.floats(0.01, 1),
        "clip_high": st.none() | st.floats(0.01, 4),
        "mask_truncated": st.none() | st.booleans(),
        "dynamic_sampling": st.none() | st.booleans(),
        "correction": st.fixed_dictionaries(
            {},
            optional={
                "level": st.sampled_from([None, "none", "token", "sequence"]),
                "mode": st.sampled_from(["truncate", "mask"]),
            },
        ),
    },
)
ANY_JOB = st.fixed_dictionaries(
    {"model": st.just({"path": "m"}), "data": st.just({"train": "t", "evaluation": "e"})},
    optional={
        "method": st.sampled_from(["reinforce", "supervised", "evaluate"]),
        "seed": st.integers(0, 2**31 - 1),
        "rollout": st.fixed_dictionaries({}, optional={"max_staleness": st.integers(0, 3)}),
        "learner": st.fixed_dictionaries({}, optional={"loss": LOSS, "beta": st.floats(0, 1)}),
        "evaluation": st.fixed_dictionaries(
            {}, optional={"controls": st.lists(st.sampled_from(["silence", "shuffled"])), "every": st.integers(0, 9)}
        ),
        "reward": st.fixed_dictionaries(
            {},
            optional={
                "functions": st.dictionaries(
                    st.sampled_from(["accuracy", "format", "majority"]), st.floats(-9, 9), min_size=1
                )
            },
        ),
    },
)


@given(ANY_JOB)
def test_any_job_is_the_same_however_it_is_made(values):
    validated = JobSpec.model_validate(values)
    assert JobSpec(**values) == validated
    assert construct(JobSpec, values) == validated
    assert JobSpec.model_validate(validated.model_dump()) == validated
    assert JobSpec.model_validate(validated.model_dump(mode="json")) == validated


@given(LOSS)
def test_the_choices_of_a_loss_are_complete(values):
    settings = LossSettings.model_validate(values)
    assert settings == LossSettings(**values)
    preset = LossSettings(algorithm=settings.algorithm)
    for name, value in settings.choices:
        given_value = values.get(name)
        assert value == (getattr(preset, name) if given_value is None else given_value)


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
def test_numbers_must_be_finite(number):
    for section, key in (("rollout", "temperature"), ("learner", "timeout_seconds"), ("evaluation", "temperature")):
        with pytest.raises(ValidationError, match=r"finite|greater"):
            JobSpec.model_validate({**SMALLEST, section: {key: number}})


@pytest.mark.filterwarnings("error")
def test_the_json_schema_has_the_defaults_of_mappings():
    sections = JobSpec.model_json_schema()["$defs"]
    assert sections["RewardSettings"]["properties"]["functions"]["default"] == {"accuracy": 1.0, "format": 1.0}
    assert sections["DataSection"]["properties"]["columns"]["default"] == {}
