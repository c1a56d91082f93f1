"""Names of reward functions: allowed modules, imports, and the errors for wrong names."""

import sys
from pathlib import Path

import pytest

from reward.functions import accuracy, format
from reward.registry import NAMES, RewardError, check_name, resolve


def test_built_in_names() -> None:
    assert resolve("accuracy", []) is accuracy
    assert resolve("format", []) is format


@pytest.mark.parametrize("name", ["acuracy", "Accuracy", "", "a.b", "a:b:c", "a.b:", ":b", "a..b:c", "a:b.c", "a:1"])
def test_an_unknown_name_is_answered_with_the_nearest(name: str) -> None:
    with pytest.raises(RewardError, match="unknown reward function") as caught:
        check_name(name, ["a"])
    assert any(repr(known) in str(caught.value) for known in NAMES)
    assert "\n" not in str(caught.value)


def test_group_rewards_are_known_and_are_not_functions_of_one_completion() -> None:
    for name in ("length", "majority", "judge"):
        check_name(name, [])
        with pytest.raises(RewardError, match="whole groups"):
            resolve(name, [])


@pytest.mark.parametrize("module", ["rewards", "rewards.audio", "rewards.audio.length"])
def test_an_allowed_package_allows_what_lies_in_it(module: str) -> None:
    check_name(f"{module}:score", ["rewards"])


@pytest.mark.parametrize("module", ["rewards_of_others", "reward", "os", "my.rewards", "rewardsx.audio"])
def test_a_module_is_allowed_by_whole_components_only(module: str) -> None:
    with pytest.raises(RewardError, match="not among the allowed modules; allowed is 'rewards'"):
        check_name(f"{module}:score", ["rewards"])


def test_without_a_list_no_module_is_allowed() -> None:
    with pytest.raises(RewardError, match="no module is allowed"):
        check_name("os:_exit", [])


def test_checking_imports_nothing(rewards_home: Path) -> None:
    check_name("ending_rewards:score", ["ending_rewards"])
    assert "ending_rewards" not in sys.modules


def test_a_function_is_found_by_its_path(rewards_home: Path) -> None:
    assert resolve("house_rewards:length", ["house_rewards"]).__name__ == "length"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("house_rewards:lenght", "no 'lenght'; the nearest there is 'length'"),
        ("house_rewards:constant", "is a int, not a function"),
        ("house_rewards:getpid", "comes from module 'posix', which is not allowed"),
        ("house_rewards:partial", "comes from module 'functools', which is not allowed"),
        ("broken_rewards:score", r"does not import \(OSError: no disk\)"),
        ("exiting_rewards:score", r"does not import \(SystemExit: 1\)"),
        ("absent_rewards:score", r"does not import \(ModuleNotFoundError"),
    ],
)
def test_an_unusable_function_is_explained(rewards_home: Path, name: str, problem: str) -> None:
    with pytest.raises(RewardError, match=problem) as caught:
        resolve(name, ["house_rewards", "broken_rewards", "exiting_rewards", "absent_rewards"])
    assert "\n" not in str(caught.value)
