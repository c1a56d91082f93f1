"""Which reward function a name means: a built-in one, or one of the user's by dotted path from an allow-list."""

import importlib
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from reward.consistency import consistency
from reward.functions import RewardFunction, accuracy, format

BUILT_IN: dict[str, RewardFunction] = {"accuracy": accuracy, "format": format, "consistency": consistency}
"""Pure, and linear in the completion's length: they need no process of their own."""
OF_GROUPS = ("length", "majority", "judge")
"""Built in too, but asked about whole groups: they need more than one completion's text (`group_rewards`, `judge`)."""
NAMES = (*BUILT_IN, *OF_GROUPS)

_DOTTED_PATH = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*)")


class RewardError(ValueError):
    """A reward function that cannot be had. The message is one line: the name, what is wrong, how to mend it."""


def check_name(name: str, allowed_modules: Sequence[str]) -> None:
    """Raise RewardError unless `name` is built in, or `package.module:function` of an allowed module.

    Imports nothing: whoever only reads a job file never runs a user's module. A module is allowed if the list holds
    it or a package it lies in, by whole components: `rewards` allows `rewards.audio`, not `rewards_of_others`.
    """
    if name in NAMES:
        return
    match = _DOTTED_PATH.fullmatch(name)
    if match is None:
        raise RewardError(
            f"unknown reward function {name!r}; use {_nearest(name, NAMES)} or a path such as 'package.module:function'"
        )
    if not _allowed(match[1], allowed_modules):
        hint = f"allowed is {_nearest(match[1], allowed_modules)}" if allowed_modules else "no module is allowed"
        raise RewardError(f"reward function {name!r}: module {match[1]!r} is not among the allowed modules; {hint}")


def resolve(name: str, allowed_modules: Sequence[str]) -> RewardFunction:
    """The function that `name` means. Imports its module if it is not built in: call this in a reward process only.

    Raises RewardError for what `check_name` refuses, for a module that fails to import, and for a function that is
    missing, not callable, or was made in a module that is not allowed (a name an allowed module merely imported).
    """
    check_name(name, allowed_modules)
    if name in BUILT_IN:
        return BUILT_IN[name]
    if name in OF_GROUPS:
        raise RewardError(f"reward function {name!r} is asked about whole groups, not about one completion")
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # the module is the user's: it may fail in any way
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise RewardError(f"reward function {name!r}: module {module_name!r} does not import ({reason})") from error
    function = getattr(module, function_name, None)
    if function is None:
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        hint = f"; the nearest there is {_nearest(function_name, known)}" if known else ""
        raise RewardError(f"reward function {name!r}: module {module_name!r} has no {function_name!r}{hint}")
    if not callable(function):
        raise RewardError(f"reward function {name!r} is a {type(function).__name__}, not a function")
    home = str(getattr(function, "__module__", None))
    if not _allowed(home, allowed_modules):
        raise RewardError(
            f"reward function {name!r} comes from module {home!r}, which is not allowed; define it in {module_name!r}"
        )
    resolved: RewardFunction = function
    return resolved


def _allowed(module: str, allowed_modules: Iterable[str]) -> bool:
    return any(module == allowed or module.startswith(f"{allowed}.") for allowed in allowed_modules)


def _nearest(name: str, names: Iterable[str]) -> str:
    return repr(get_close_matches(name, list(names), n=1, cutoff=0.0)[0])
