"""The base class of all settings that a job file holds.

Invariant: settings cannot be changed, at any depth. Their fields hold numbers, strings, enums, tuples, frozen mappings
(`protocol.frozen_mapping`) and other settings.
"""

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from protocol.exact_kinds import LARGEST, check_kinds, check_size, parts_of

__all__ = ["LARGEST", "Settings"]


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
        """Refuse what pydantic would take and no program can use, or nobody means."""
        assert info.field_name is not None
        annotation = cls.model_fields[info.field_name].annotation
        if _has_section(annotation):
            return value  # a section checks its own fields
        for part in parts_of(value):
            if isinstance(part, str) and ("\0" in part or not _can_be_encoded(part)):
                raise ValueError("the text contains a zero byte or half of a surrogate pair: remove it")
        check_kinds(annotation, value)
        return value

    @field_validator("*")
    @classmethod
    def _check_size(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        if not isinstance(value, Settings):
            check_size(cls.model_fields[info.field_name].annotation, value)
        return value


def _has_section(annotation: Any) -> bool:
    """Return whether a section is in an annotation, which may be optional."""
    candidates = (annotation, *get_args(annotation))
    return any(isinstance(one, type) and issubclass(one, Settings) for one in candidates)


def _can_be_encoded(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)
