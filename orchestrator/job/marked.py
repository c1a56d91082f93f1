"""Finds the fields of a job specification that carry a mark (`protocol.marks`), and the texts in it by what they name.

Invariant: every text that a job file may choose freely is found, wherever it is: in a field, an item of a list, a key
or a value of a mapping, or one of several types. One without a mark has the kind None, which no rule accepts.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from types import EllipsisType, NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from protocol.marks import KINDS
from protocol.settings import Settings

S = TypeVar("S", bound=Settings)
Visit = Callable[[str, Enum | None, str], str]
"""Takes the dotted name of a field, the kind of a text in it and the text; returns the text to put there."""

_FIXED = (NoneType, bool, int, float, Enum, EllipsisType)
"""Types whose values are not text, or one of a few texts."""


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
        if any(isinstance(mark, Enum) and mark in marks for mark in field.metadata):
            yield name
        elif section is not None:
            yield from (f"{name}.{inner}" for inner in marked_names(section, marks))


def text_kinds(model: type[Settings]) -> Iterator[tuple[str, Enum | None]]:
    """Yield the dotted name of each field that takes free text, with its kind; a name for each place of the field."""
    for name, field in model.model_fields.items():
        yield from _kinds_in(field.annotation, _kind_of(field.metadata, None), name)


def texts(settings: Settings) -> list[tuple[str, Enum | None, str]]:
    """Return dotted name, kind and value of each free text in a job."""
    found: list[tuple[str, Enum | None, str]] = []

    def visit(name: str, kind: Enum | None, text: str) -> str:
        found.append((name, kind, text))
        return text

    _with_texts(settings, visit, "")
    return found


def marked_values(settings: Settings, marks: Collection[Enum]) -> Iterator[tuple[str, str]]:
    """Yield dotted name and value of each text with one of the marks."""
    return ((name, text) for name, kind, text in texts(settings) if kind in marks)


def replace_marked(settings: S, marks: Collection[Enum], replace: Callable[[str, str], str]) -> S:
    """Return the settings with `replace(dotted name, value)` in place of each text with one of the marks."""
    return _with_texts(settings, lambda name, kind, text: replace(name, text) if kind in marks else text, "")


def _kinds_in(annotation: Any, kind: Enum | None, name: str) -> Iterator[tuple[str, Enum | None]]:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _kinds_in(parts[0], _kind_of(parts[1:], kind), name)
    elif origin is Literal:
        return
    elif origin in (Union, UnionType) or (isinstance(origin, type) and issubclass(origin, Mapping | Collection)):
        for part in parts:
            yield from _kinds_in(part, kind, name)
    elif isinstance(annotation, type) and issubclass(annotation, Settings):
        yield from ((f"{name}.{inner}", found) for inner, found in text_kinds(annotation))
    elif annotation is not ... and not (isinstance(annotation, type) and issubclass(annotation, _FIXED)):
        yield name, kind  # text, or a type that may hold one


def _with_texts(settings: S, visit: Visit, prefix: str) -> S:
    changed: dict[str, Any] = {}
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        new = _visited(field.annotation, _kind_of(field.metadata, None), value, f"{prefix}{name}", visit)
        if new is not value:
            changed[name] = new
    return settings.model_copy(update=changed) if changed else settings


def _visited(annotation: Any, kind: Enum | None, value: Any, name: str, visit: Visit) -> Any:
    """Return a value with its texts replaced; the same object if none is another one."""
    if isinstance(value, Settings):
        return _with_texts(value, visit, f"{name}.")
    if value is None or isinstance(value, _FIXED):
        return value
    options = list(_options(annotation, kind))
    if isinstance(value, str):
        if any(get_origin(option) is Literal and value in get_args(option) for option, _ in options):
            return value
        return visit(name, next((own for option, own in options if option is str), kind), value)
    inner = next(
        ((get_args(option), own) for option, own in options if isinstance(value, get_origin(option) or ())), ((), kind)
    )
    if isinstance(value, Mapping):
        return _visited_items(inner, value, name, visit)
    assert isinstance(value, Sequence), f"{name} holds a {type(value).__name__}"
    item = inner[0][0] if inner[0] else Any
    new = [_visited(item, inner[1], part, name, visit) for part in value]
    return value if all(a is b for a, b in zip(new, value, strict=True)) else type(value)(new)  # type: ignore[call-arg]


def _visited_items(
    inner: tuple[tuple[Any, ...], Enum | None], value: Mapping[Any, Any], name: str, visit: Visit
) -> Mapping[Any, Any]:
    (key_type, item_type), kind = inner[0] or (Any, Any), inner[1]
    new = {
        _visited(key_type, kind, key, name, visit): _visited(item_type, kind, item, name, visit)
        for key, item in value.items()
    }
    same = all(a is b and value[a] is new[b] for a, b in zip(value, new, strict=True))
    return value if same else type(value)(new)  # type: ignore[call-arg]


def _options(annotation: Any, kind: Enum | None) -> Iterator[tuple[Any, Enum | None]]:
    """Yield the types that an annotation allows, each with the kind of its texts."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _options(parts[0], _kind_of(parts[1:], kind))
    elif origin in (Union, UnionType):
        for part in parts:
            yield from _options(part, kind)
    else:
        yield annotation, kind


def _kind_of(metadata: Iterable[object], otherwise: Enum | None) -> Enum | None:
    return next((mark for mark in reversed(list(metadata)) if isinstance(mark, Enum) and mark in KINDS), otherwise)
