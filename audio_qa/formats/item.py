"""One record of a question file, read field by field, and the question that a format reads from it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from audio_qa import dataset
from audio_qa.dataset import choice_of, kind_of, nearest
from audio_qa.errors import InputError, shown
from audio_qa.formats.cells import listed, whole_number
from audio_qa.formats.question_set import ProblemKind


class ItemError(InputError):
    """An item that is not a question Earshot can ask. The message states the problem and the correction."""

    def __init__(self, detail: str, kind: ProblemKind = ProblemKind.ITEM) -> None:
        super().__init__(detail, kind)
        self.detail, self.kind = detail, kind


class Answers(StrEnum):
    """The answers that a reader of a question file needs."""

    REQUIRED = "required"
    """An item without an answer is a problem."""
    OPTIONAL = "optional"
    """A file may have no answers at all, as hidden test sets; if only some items lack theirs, those are problems."""
    IGNORED = "ignored"
    """Existing answers are not read, and all are empty."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A question as its file has it: the path of the clip may be relative, and the dataset has no name yet."""

    id: str
    audio: str
    text: str
    choices: tuple[str, ...]
    answer: str
    task: str = ""
    category: str = ""
    sub_category: str = ""
    difficulty: str = ""


@dataclass(frozen=True, slots=True)
class Item:
    """One object or row of a question file, and its place in the file."""

    record: Mapping[str, object]
    place: str
    labelled: bool = True
    """True if the item must have an answer. Otherwise an existing answer is not read: the question's is empty."""
    clips: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """By key, the path of a clip whose sound the file itself contains; the record has the clip's name in the file."""
    table: bool = False
    """True for a row of a table, in which a missing value is null or blank, and an id may be a number."""

    def lacks(self, key: str) -> bool:
        """Return whether there is no value under a key."""
        return is_missing(self.record.get(key))

    def text(self, key: str) -> str:
        """Return a text that is not blank. Raises ItemError."""
        return checked_text(self.value(key), repr(key))

    def clip(self, key: str) -> str:
        """Return the path of a clip, or of the only clip of a list. Raises ItemError."""
        if key in self.clips:
            return self.clips[key]
        several = self.sequence(key)
        if several is not None and len(several) != 1:
            raise ItemError(f"{key!r} names {len(several)} clips; a question is about one")
        return checked_text(self.value(key) if several is None else several[0], repr(key))

    def sequence(self, key: str) -> Sequence[object] | None:
        """Return the list under a key, also one that a table holds as text; None for anything else."""
        value = self.record.get(key)
        if self.table and isinstance(value, str):
            try:
                value = listed(value)
            except ValueError:  # text that only begins like a list
                return None
        return value if isinstance(value, list | tuple) else None

    def identifier(self, key: str) -> str:
        """Return a text or a whole number, as text. Raises ItemError."""
        value = self.value(key)
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else checked_text(value, repr(key))

    def label(self, key: str) -> str:
        """Return a label to group items by: a text, or several joined by commas; empty if it is missing or null."""
        value = self.record.get(key)
        values = value if isinstance(value, list) else [value]
        return ", ".join(str(v).strip() for v in values if not is_missing(v))

    def choices(self, key: str, *, blank: bool = False) -> tuple[str, ...]:
        """Return at least two texts, in the order of the file, duplicates included. Raises ItemError.

        Args:
            blank: allow blank choices, as in a few items of MMAR.
        """
        value = list_of(self.value(key), repr(key))
        if not isinstance(value, list | tuple):
            raise ItemError(f"{key!r} is {kind_of(value)}; write a list of strings")
        return enough(
            [c if blank and isinstance(c, str) and not c.strip() else checked_text(c, "a choice") for c in value]
        )

    def answer(self, key: str, choices: Sequence[str]) -> str:
        """Return the choice that a text is. Raises ItemError."""
        if not self.labelled:
            return ""
        answer = self.text(key)
        choice = choice_of(answer, choices)
        if choice is None:
            raise not_among(answer, choices)
        return choice

    def answer_at(self, key: str, choices: Sequence[str]) -> str:
        """Return the choice at a 0-based index in the file's own list, none of which was left out. Raises ItemError."""
        if not self.labelled:
            return ""
        value = self.value(key)
        index = whole_number(value)
        if index is None:
            raise ItemError(f"{key!r} is {kind_of(value)}; write the answer's index, from 0")
        if not 0 <= index < len(choices):
            raise ItemError(
                f"answer {shown(index)} is not among the choices; there are {len(choices)}, counted from 0",
                ProblemKind.ANSWER,
            )
        if isinstance(value, str) and value in choices and choices[index] != value:
            raise ItemError(
                f"answer {value!r} is one of the choices and the index of another; write the index as a number, or "
                "name the columns, with 'answer_index' or 'answer_text'",
                ProblemKind.ANSWER,
            )
        return choices[index]

    def value(self, key: str) -> object:
        """Return the value under a key. Raises ItemError if there is none."""
        if key not in self.record:
            hint = ", or name the column that has it (data.columns, --column)" if self.table else ""
            raise ItemError(f"missing key {key!r}; add it{hint}")
        return self.record[key]


def is_missing(value: object) -> bool:
    """Return whether a value stands for none: null, blank text, or NaN, by which pandas writes null."""
    return (
        value is None
        or (isinstance(value, str) and not value.strip())
        or (isinstance(value, float) and math.isnan(value))
    )


def not_among(answer: str, choices: Sequence[str], hint: str = "") -> ItemError:
    """Return the error for an answer that is none of the choices."""
    return ItemError(
        f"answer {shown(answer)} is not among the choices; the nearest is {nearest(answer, choices)}{hint}",
        ProblemKind.ANSWER,
    )


def enough(choices: Sequence[str]) -> tuple[str, ...]:
    """Return the choices if there are at least two. Raises ItemError."""
    if len(choices) < 2:
        raise ItemError(f"{len(choices)} choice(s); give at least 2")
    return tuple(choices)


def checked_text(value: object, what: str) -> str:
    """Return `value` as `audio_qa.dataset.checked_text` does. Raises ItemError."""
    try:
        return dataset.checked_text(value, what)
    except ValueError as error:
        raise ItemError(str(error)) from error


def list_of(value: object, what: str) -> object:
    """Return the list that a text holds; any other value as it is. Raises ItemError."""
    try:
        return listed(value)
    except ValueError as error:
        raise ItemError(f"{what} {error}; write a JSON list of strings") from error
