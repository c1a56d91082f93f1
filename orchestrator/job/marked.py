"""Finds the fields of a job specification that carry a mark (`protocol.marks`)."""

from collections.abc import Callable, Collection, Iterator
from enum import Enum
from typing import Any, TypeVar, get_args

from protocol.settings import Settings

S = TypeVar("S", bound=Settings)


def section_of(annotation: Any) -> type[Settings] | None:
    """Return the settings class in a field's annotation, which may be optional; None for a plain value."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, Settings):
            return candidate
    return None


def marked_names(model: type[Settings], marks: Collection[Enum]) -> Iterator[str]:
    """Yield the dotted names of the fields with one of the marks; of a marked section only the section's own name."""
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        if _has(field.metadata, marks):
            yield name
        elif section is not None:
            yield from (f"{name}.{inner}" for inner in marked_names(section, marks))


def marked_values(settings: Settings, marks: Collection[Enum]) -> Iterator[tuple[str, str]]:
    """Yield dotted name and value of each field with one of the marks; fields that are None are left out."""
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, Settings):
            yield from ((f"{name}.{inner}", text) for inner, text in marked_values(value, marks))
        elif value is not None and _has(field.metadata, marks):
            yield name, value


def replace_marked(settings: S, marks: Collection[Enum], replace: Callable[[str, str], str], prefix: str = "") -> S:
    """Return the settings with `replace(dotted name, value)` in each field with one of the marks that is not None."""
    changed: dict[str, Any] = {}
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, Settings):
            new: Any = replace_marked(value, marks, replace, f"{prefix}{name}.")
        elif value is not None and _has(field.metadata, marks):
            new = replace(f"{prefix}{name}", value)
        else:
            continue
        if new is not value:
            changed[name] = new
    return settings.model_copy(update=changed) if changed else settings


def _has(metadata: Collection[object], marks: Collection[Enum]) -> bool:
    return any(isinstance(mark, Enum) and mark in marks for mark in metadata)
