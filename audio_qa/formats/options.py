"""The choices of an item in the file's own order, and the one that its answer names.

Invariant: an index counts in the file's own list, before blank choices are left out; an answer that could mean two
choices is refused.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from audio_qa.dataset import choice_of, kind_of
from audio_qa.errors import shown
from audio_qa.formats.cells import whole_number
from audio_qa.formats.item import Item, ItemError, checked_text, enough, is_missing, list_of, not_among
from audio_qa.formats.question_set import ProblemKind

_LETTER = re.compile(r"\(?([A-Za-z])[).:]?")


@dataclass(frozen=True, slots=True)
class OptionList:
    """The choices of one item, at least two of them not blank."""

    own: tuple[str | None, ...]
    """The file's own list; None where a choice is blank or null, and therefore left out."""

    @property
    def choices(self) -> tuple[str, ...]:
        """The choices that are asked."""
        return tuple(option for option in self.own if option is not None)

    def by_text_or_index(self, value: object, key: str) -> str:
        """Return the choice that `value` is: a choice verbatim, or its index from 0. Raises ItemError.

        Where choices are numbers, a number could be a choice or an index: only a text that is a choice, and cannot be
        the index of another, is read.
        """
        index = whole_number(value)
        if index is None:
            return self._verbatim(checked_text(value, repr(key)))
        text = value if isinstance(value, str) and value in self.choices else None
        if text is not None and not (0 <= index < len(self.own) and self.own[index] != text):
            return text
        if text is not None or any(_is_number(option) for option in self.choices):
            raise ItemError(
                f"{key!r} is {shown(value)} and choices are numbers, so it could be a choice or an index; name the "
                "column with 'answer_text' or 'answer_index' (from 0) instead of 'answer'",
                ProblemKind.ANSWER,
            )
        return self._at(index, value, "counted from 0")

    def by_text(self, value: object, key: str) -> str:
        """Return the choice that is `value`, or, for a number, equals it. Raises ItemError."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            equal = {option for option in self.choices if _number(option) == value}
            if str(value) in equal:
                return str(value)
            if len(equal) != 1:
                raise not_among(str(value), self.choices)
            return equal.pop()
        return self._verbatim(checked_text(value, repr(key)))

    def by_index(self, value: object, key: str) -> str:
        """Return the choice at an index from 0. Raises ItemError."""
        return self._at(_whole(value, key), value, "counted from 0")

    def by_number(self, value: object, key: str) -> str:
        """Return the choice at a position from 1. Raises ItemError."""
        return self._at(_whole(value, key) - 1, value, "counted from 1")

    def by_letter(self, value: object, key: str) -> str:
        """Return the choice that a letter names: A, b, (C) or D. are the first four. Raises ItemError."""
        letter = _LETTER.fullmatch(checked_text(value, repr(key)).strip())
        if letter is None:
            raise ItemError(f"{key!r} is {shown(value)}; write one letter, A for the first choice")
        return self._at(ord(letter[1].upper()) - ord("A"), value, "the first is A")

    def _verbatim(self, text: str) -> str:
        choice = choice_of(text, self.choices)
        if choice is not None:
            return choice
        letter = _LETTER.fullmatch(text.strip())
        hint = "; for letters, name the column with 'answer_letter' instead of 'answer'" if letter else ""
        raise not_among(text, self.choices, hint)

    def _at(self, index: int, value: object, counted: str) -> str:
        if not 0 <= index < len(self.own):
            raise ItemError(
                f"answer {shown(value)} is not among the choices; there are {len(self.own)}, {counted}",
                ProblemKind.ANSWER,
            )
        option = self.own[index]
        if option is None:
            raise ItemError(f"answer {shown(value)} names a choice that is blank ({counted})", ProblemKind.ANSWER)
        return option


def options_of(item: Item, column: str | Sequence[str]) -> OptionList:
    """Return the choices in a column, or in several with one choice each. Raises ItemError."""
    if isinstance(column, str):
        values = list_of(item.value(column), repr(column))
        if not isinstance(values, list | tuple):
            raise ItemError(
                f"{column!r} is {kind_of(values)}; write a list of strings, or name one column for each choice"
            )
    else:
        values = [item.record.get(name) for name in column]
    options = OptionList(tuple(_option(value) for value in values))
    enough(options.choices)
    return options


def _option(value: object) -> str | None:
    """Return a choice as text, None if it is blank or null. Raises ItemError."""
    if is_missing(value):
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    return checked_text(value, "a choice")


def _whole(value: object, key: str) -> int:
    index = whole_number(value)
    if index is None:
        raise ItemError(f"{key!r} is {shown(value)}; write a whole number", ProblemKind.ANSWER)
    return index


def _is_number(text: str) -> bool:
    """Return whether a text is a number in any notation: 2, -1.5, 1,000, 2/4, 50 %, 10:30, 1e3."""
    digits_only = any(map(str.isdigit, text)) and not any(map(str.isalpha, text))
    return digits_only or _number(text) is not None


def _number(text: str) -> float | int | None:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return None
