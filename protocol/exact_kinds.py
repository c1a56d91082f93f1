"""Refuses values of another kind than a field's, where pydantic would convert them.

Pydantic reads the text "1_0" as the number 10, `true` as 1, and 0 or "yes" as a boolean. Who wrote such a value meant
something else, or will be surprised by it. Invariant: a number of a job is one that its author wrote as a number, and a
boolean one that was written as true or false.
"""

import math
import re
from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

_OCTAL = re.compile(r"[-+]?0[0-9]")
LARGEST = 2**32
"""Largest number in a job file. A greater one is a mistake, and timers and tensors fail at some of them."""
LARGEST_FREE = 2**63 - 1
"""Largest number where a job may have any JSON value: other programs cannot read a greater one."""


def check_kinds(annotation: Any, value: Any) -> None:
    """Compare a value that was given with the annotation of its field, at every depth.

    Raises ValueError with what to write instead. A value of a kind that has no resemblance is left to pydantic.
    """
    options = list(_options(annotation))
    if value is None or isinstance(value, str | int | float):
        pass
    elif isinstance(value, Mapping):
        for option in options:
            if _is(option, Mapping):
                key_kind, item_kind = get_args(option)
                for key, item in value.items():
                    check_kinds(key_kind, key)
                    check_kinds(item_kind, item)
                return
    elif isinstance(value, list | tuple):
        for option in options:
            if _is(option, tuple):
                for i, item in enumerate(value):
                    check_kinds(_item_kind(option, i), item)
                return
    _check_scalars(set(map(_kind, options)), value)


def check_size(annotation: Any, value: Any) -> None:
    """Raise ValueError for a number that is larger than any use of it, at every depth."""
    for part in parts_of(value):
        if isinstance(part, int | float) and abs(part) > LARGEST:
            if {int, float} & _kinds_within(annotation):
                raise ValueError(f"the number is larger than {LARGEST:,}, the largest that a job file may have")
            if abs(part) > LARGEST_FREE:
                raise ValueError(f"the number is larger than {LARGEST_FREE:,}, the largest that free keys may have")


def parts_of(value: Any) -> list[Any]:
    """Return what is in a value, at every depth: keys, values and items."""
    if value is None or isinstance(value, str | int | float):
        return [value]
    parts, left = [], [value]
    while left:
        part = left.pop()
        if isinstance(part, Mapping):
            left += part.keys()
            left += part.values()
        elif isinstance(part, list | tuple):
            left += part
        else:
            parts.append(part)
    return parts


def _check_scalars(kinds: set[Any], value: Any) -> None:
    number = kinds & {int, float}
    for part in parts_of(value):
        if isinstance(part, bool):
            if number and bool not in kinds:
                raise ValueError("a number is needed, not true or false")
        elif number and isinstance(part, str) and str not in kinds:
            example = "0.001" if float in kinds else "1000"
            whole = "" if float in kinds else "whole "
            quotes = "; remove the quotes" if _is_number(part) else ""
            raise ValueError(f"a {whole}number is needed, such as {example}{quotes}")
        elif bool in kinds and not number and part is not None:
            raise ValueError("true or false is needed, without quotes")
        elif isinstance(part, float) and not math.isfinite(part) and not number:
            raise ValueError("a finite number is needed")


def _options(annotation: Any) -> Any:
    """Yield the members of a union, without their metadata."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _options(get_args(annotation)[0])
    elif origin in (Union, UnionType, Literal):
        for option in get_args(annotation):
            yield from _options(option)
    else:
        yield annotation


def _is(option: Any, kind: type) -> bool:
    origin = get_origin(option)
    return isinstance(origin, type) and issubclass(origin, kind) and bool(get_args(option))


def _item_kind(option: Any, i: int) -> Any:
    kinds = get_args(option)
    return kinds[0] if kinds[-1] is Ellipsis else kinds[min(i, len(kinds) - 1)]


def _kind(option: Any) -> Any:
    """Return a type; of a literal's value, its type."""
    return option if isinstance(option, type) else type(option)


def _kinds_within(annotation: Any) -> set[Any]:
    """Return the kinds of all scalars in an annotation, at every depth."""
    kinds: set[Any] = set()
    for option in _options(annotation):
        inner = [part for part in get_args(option) if part is not Ellipsis]
        kinds |= {kind for part in inner for kind in _kinds_within(part)} if inner else {_kind(option)}
    return kinds


def _is_number(text: str) -> bool:
    """Return whether a text is a number in quotes: without them, YAML and JSON would read a number."""
    try:
        return text.isascii() and not _OCTAL.match(text) and math.isfinite(float(text))
    except ValueError:
        return False
