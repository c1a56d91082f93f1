"""Numbers on the command line: written in digits, and negative ones as arguments."""

import re
from typing import Any, get_args

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from orchestrator.schemas.digits import DIGITS

_DECIMAL = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?", re.ASCII)


def make_exact(command: TyperCommand | TyperGroup) -> None:
    """Have the numbers of a command refuse text that is read as another number than it seems: 1_0, " 5", 5.0."""
    for parameter in command.params:
        assert isinstance(parameter, TyperOption | TyperArgument)
        kind = number_kind(parameter)
        if kind is not None:
            _check_text(parameter, kind)


def number_kind(parameter: TyperOption | TyperArgument) -> type[int] | type[float] | None:
    """Return int or float for an option or argument with a number."""
    annotation = parameter.type_descriptor.annotation
    kinds = {annotation, *get_args(annotation)}
    return int if int in kinds else float if float in kinds else None


def negative_numbers_last(command: TyperCommand | TyperGroup, args: list[str]) -> list[str]:
    """Return the words of a command line with negative numbers after `--`, unless they are options.

    `earshot priority JOB -5` means the number.
    """
    if "--" in args or not any(isinstance(p, TyperArgument) and number_kind(p) is not None for p in command.params):
        return args
    valued = {
        name
        for p in command.params
        if isinstance(p, TyperOption) and not p.is_flag
        for name in (*p.opts, *p.secondary_opts)
    }
    numbers = [
        i for i, word in enumerate(args) if re.fullmatch(r"-[0-9].*", word) and (i == 0 or args[i - 1] not in valued)
    ]
    if not numbers:
        return args
    return [*(word for i, word in enumerate(args) if i not in numbers), "--", *(args[i] for i in numbers)]


def _check_text(parameter: TyperOption | TyperArgument, kind: type[int] | type[float]) -> None:
    """Have the parameter compare its text with the form of a number before typer converts it."""
    convert = parameter.process_value
    pattern, wanted = (
        (DIGITS, "a whole number in digits, such as 5") if kind is int else (_DECIMAL, "a number, such as 0.5")
    )

    def process_value(ctx: Any, value: Any) -> Any:
        for text in value if isinstance(value, list | tuple) else (value,):
            if isinstance(text, str) and not pattern.fullmatch(text):
                raise typer.BadParameter(f"{text!r} is not {wanted}", ctx=ctx, param=parameter)
        return convert(ctx, value)

    setattr(parameter, "process_value", process_value)  # noqa: B010
