"""The base class of all settings that a job file holds.

Invariant: settings cannot be changed, at any depth. Their fields hold numbers, strings, enums, tuples, frozen mappings
(`protocol.frozen_mapping`) and other settings.
"""

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

LARGEST = 2**32
"""Largest number in a job file. A greater one is a mistake, and timers and tensors fail at some of them."""


class Settings(BaseModel):
    """A section of a job file: unknown keys are errors, numbers are finite, and nothing can be changed.

    Field validators fill in defaults that depend on other fields (they run for defaults too), so the constructor and
    `model_validate` make equal settings from equal values.
    """

    model_config = ConfigDict(
        allow_inf_nan=False,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        validate_default=True,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _check_given(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what pydantic would take and no program can use."""
        assert info.field_name is not None
        kinds = set(_kinds(cls.model_fields[info.field_name].annotation))
        if any(isinstance(kind, type) and issubclass(kind, Settings) for kind in kinds):
            return value  # a section checks its own fields
        for part in _parts(value):
            if isinstance(part, str) and ("\0" in part or not _can_be_encoded(part)):
                raise ValueError("the text contains a zero byte or half of a surrogate pair: remove it")
            if isinstance(part, bool) and kinds & {int, float} and bool not in kinds:
                raise ValueError("a number is needed, not true or false")  # pydantic would read 1 or 0
        return value

    @field_validator("*")
    @classmethod
    def _check_size(cls, value: Any) -> Any:
        if isinstance(value, int | float) and abs(value) > LARGEST:
            raise ValueError(f"the number is larger than {LARGEST:,}, the largest that a job file may have")
        return value


def _kinds(annotation: Any) -> Iterator[Any]:
    """Yield the types in an annotation."""
    parts = get_args(annotation)
    if not parts:
        yield annotation if isinstance(annotation, type) else type(annotation)  # of a literal, the type of its value
    for part in parts:
        yield from _kinds(part)


def _parts(value: Any) -> Iterator[Any]:
    """Yield what is in a value, at every depth: keys, values and items."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from _parts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _parts(item)
    else:
        yield value


def _can_be_encoded(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)
