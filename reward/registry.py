"""Reward functions by name: built-in ones, and custom ones by dotted path from allowed modules."""

import importlib
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from audio_qa.errors import InputError, cause_of, shown
from reward.consistency import consistency
from reward.functions import RewardFunction, accuracy, format

BUILT_IN: dict[str, RewardFunction] = {"accuracy": accuracy, "format": format, "consistency": consistency}
"""Built-in functions of one completion. They take time linear in its length, and need no process of their own."""
GROUP_REWARDS = ("length", "majority", "judge")
"""Built-in functions of whole groups (`group_rewards`, `judge`)."""
NAMES = (*BUILT_IN, *GROUP_REWARDS)

_LONGEST_NAME = 200
_DOTTED_PATH = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*)")


class RewardError(InputError):
    """A reward function that cannot be used. The message is one line: the name, what is wrong, how to correct it."""


def check_name(name: str, allowed_modules: Sequence[str]) -> None:
    """Raise RewardError unless `name` is built in, or `package.module:function` of an allowed module.

    Imports nothing, so that reading a job file never runs custom code. A module is allowed if the list has it or a
    package that contains it, by whole components: `rewards` allows `rewards.audio`, not `rewards_of_others`.
    """
    if name in NAMES:
        return
    match = _DOTTED_PATH.fullmatch(name)
    if match is None:
        raise RewardError(
            f"unknown reward function {shown(name)}; use {_nearest(name, NAMES)} or a path such as "
            "'package.module:function'"
        )
    if not _allowed(match[1], allowed_modules):
        hint = f"allowed is {_nearest(match[1], allowed_modules)}" if allowed_modules else "no module is allowed"
        raise RewardError(
            f"reward function {shown(name)}: module {shown(match[1])} is not among the allowed modules; {hint}"
        )


def resolve(name: str, allowed_modules: Sequence[str]) -> RewardFunction:
    """Return the function of a name. Imports its module if it is not built in: call this in a reward process only.

    Raises RewardError for a name that `check_name` refuses, for a module that fails to import, and for a function that
    is missing, not callable, or defined in a module that is not allowed (and merely imported by an allowed one).
    """
    check_name(name, allowed_modules)
    if name in BUILT_IN:
        return BUILT_IN[name]
    if name in GROUP_REWARDS:
        raise RewardError(f"reward function {shown(name)} applies to whole groups, not to one completion")
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # custom code may fail in any way
        raise RewardError(
            f"reward function {shown(name)}: module {shown(module_name)} does not import ({cause_of(error)})"
        ) from error
    function = getattr(module, function_name, None)
    if function is None:
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        hint = f"; the nearest there is {_nearest(function_name, known)}" if known else ""
        raise RewardError(
            f"reward function {shown(name)}: module {shown(module_name)} has no {shown(function_name)}{hint}"
        )
    if not callable(function):
        raise RewardError(f"reward function {shown(name)} is a {type(function).__name__}, not a function")
    home = str(getattr(function, "__module__", None))
    if not _allowed(home, allowed_modules):
        raise RewardError(
            f"reward function {shown(name)} comes from module {shown(home)}, which is not allowed; define it in "
            f"{shown(module_name)}"
        )
    resolved: RewardFunction = function
    return resolved


def _allowed(module: str, allowed_modules: Iterable[str]) -> bool:
    return any(module == allowed or module.startswith(f"{allowed}.") for allowed in allowed_modules)


def _nearest(name: str, names: Iterable[str]) -> str:
    return shown(get_close_matches(name[:_LONGEST_NAME], list(names), n=1, cutoff=0.0)[0])
