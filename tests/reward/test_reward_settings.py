"""Validation of the settings of rewards."""

from typing import Any

import pytest
from pydantic import ValidationError

from reward.judge_settings import JudgeSettings
from reward.settings import LengthSettings, RewardSettings


def test_the_papers_rewards_are_the_default() -> None:
    settings = RewardSettings()
    assert settings.functions == {"accuracy": 1.0, "format": 1.0}
    assert (settings.timeout_seconds, settings.allowed_modules, settings.processes) == (10, (), 1)


def test_a_function_of_an_allowed_module_needs_no_module_yet() -> None:
    settings = RewardSettings(functions={"my.rewards:length": 0.5}, allowed_modules=["my"])
    assert settings.functions == {"my.rewards:length": 0.5}


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"functions": {"acuracy": 1}}, "acuracy.*accuracy"),
        ({"functions": {"os:_exit": 1}}, "no module is allowed"),
        ({"functions": {"accuracy": float("nan")}}, r"functions\.accuracy\s+Input should be a finite number"),
        ({"functions": {}}, "at least 1"),
        ({"function": {"accuracy": 1}}, "Extra inputs"),
        ({"timeout_seconds": 0}, "greater than 0"),
        ({"timeout_seconds": float("inf")}, "finite"),
        ({"functions": {"length": 1}}, "no section 'length'"),
        ({"functions": {"judge": 1}}, "no section 'judge'"),
        ({"length": {"target": 3, "tolerance": 1}}, "functions does not name 'length'"),
        ({"functions": {"length": 1}, "length": {"target": 3, "tolerance": 0}}, "greater than or equal to 1"),
        ({"max_unscored_in_row": 0}, "greater than or equal to 1"),
        ({"processes": 0}, "greater than or equal to 1"),
        ({"allowed_modules": [""]}, "dotted name"),
        ({"allowed_modules": ["a."]}, "dotted name"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        RewardSettings(**values)


def test_every_field_is_documented() -> None:
    for model in (RewardSettings, LengthSettings, JudgeSettings):
        assert all(field.description for field in model.model_fields.values())
