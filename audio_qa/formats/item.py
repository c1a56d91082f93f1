"""One record of a question file, read field by field, and the question that a format reads from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from audio_qa import dataset
from audio_qa.dataset import kind_of
from audio_qa.errors import InputError
from audio_qa.formats.question_set import ProblemKind


class ItemError(InputError):
    """An item that is not a question Earshot can ask. The message states the problem and the correction."""

    def __init__(self, detail: str, kind: ProblemKind = ProblemKind.ITEM) -> None:
        super().__init__(detail, kind)
        self.detail, self.kind = detail, kind


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
    """One JSON object of a question file, and its place in the file."""

    record: Mapping[str, object]
    place: str
    labelled: bool = True
    """True if the item must have an answer. Otherwise an existing answer is not read: the question's is empty."""

    def text(self, key: str) -> str:
        """Return a text that is not blank. Raises ItemError."""
        return checked_text(self._value(key), repr(key))

    def identifier(self, key: str) -> str:
        """Return a text or a whole number, as text. Raises ItemError."""
        value = self._value(key)
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else checked_text(value, repr(key))

    def label(self, key: str) -> str:
        """Return a label to group items by: a text, or several joined by commas; empty if it is missing or null."""
        value = self.record.get(key)
        values = value if isinstance(value, list) else [value]
        return ", ".join(str(v).strip() for v in values if v is not None and str(v).strip())

    def choices(self, key: str, *, blank: bool = False) -> tuple[str, ...]:
        """Return at least two texts, in the order of the file, duplicates included. Raises ItemError.

        Args:
            blank: allow blank choices, as in a few items of MMAR.
        """
        return checked_choices(self._value(key), repr(key), blank=blank)

    def answer(self, key: str, choices: Sequence[str]) -> str:
        """Return a text that is verbatim one of the choices. Raises ItemError."""
        if not self.labelled:
            return ""
        answer = self.text(key)
        if answer not in choices:
            near = get_close_matches(answer, choices, n=1, cutoff=0.0)[0]
            raise ItemError(
                f"answer {answer!r} is not among the choices; the nearest is {near!r}", kind=ProblemKind.ANSWER
            )
        return answer

    def answer_at(self, key: str, choices: Sequence[str]) -> str:
        """Return the choice at a 0-based index. Raises ItemError."""
        if not self.labelled:
            return ""
        value = self._value(key)
        if isinstance(value, str) and value.strip().isdecimal():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise ItemError(f"{key!r} is {kind_of(value)}; write the answer's index, from 0")
        if not 0 <= value < len(choices):
            raise ItemError(
                f"answer {value} is not among the choices; there are {len(choices)}, counted from 0",
                kind=ProblemKind.ANSWER,
            )
        return choices[value]

    def _value(self, key: str) -> object:
        if key not in self.record:
            raise ItemError(f"missing key {key!r}; add it")
        return self.record[key]


def checked_text(value: object, what: str) -> str:
    """Return `value` as `audio_qa.dataset.checked_text` does. Raises ItemError."""
    try:
        return dataset.checked_text(value, what)
    except ValueError as error:
        raise ItemError(str(error)) from error


def checked_choices(value: object, what: str, *, blank: bool) -> tuple[str, ...]:
    """Return `value` if it is a list of at least two texts. Raises ItemError."""
    if not isinstance(value, list | tuple):
        raise ItemError(f"{what} is {kind_of(value)}; write a list of strings")
    choices = tuple(c if blank and isinstance(c, str) and not c.strip() else checked_text(c, "a choice") for c in value)
    if len(choices) < 2:
        raise ItemError(f"{len(choices)} choice(s); give at least 2")
    return choices
