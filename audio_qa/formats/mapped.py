"""Any objects or rows, by a mapping from Earshot's keys to columns: `{audio: wav, choices: [a, b], answer: label}`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from audio_qa.dataset import nearest
from audio_qa.formats.item import Draft, Item
from audio_qa.formats.options import OptionList, options_of

ANSWERS = {
    "answer": OptionList.by_text_or_index,
    "answer_text": OptionList.by_text,
    "answer_index": OptionList.by_index,
    "answer_number": OptionList.by_number,
    "answer_letter": OptionList.by_letter,
}
"""By key, how an item's answer is read; a mapping has at most one of them."""
REQUIRED = ("audio", "question", "choices", "answer")
OPTIONAL = ("id", "task", "category", "sub_category", "difficulty")
_QUOTES = "'\""
_KEYS = (*REQUIRED, *OPTIONAL, *list(ANSWERS)[1:])
Columns = Mapping[str, str | Sequence[str]]
"""By key of Earshot's schema, or of `ANSWERS`: a column of the file, or for `choices` several with one choice each."""


def check_columns(columns: Columns) -> None:
    """Raise ValueError for an unknown key, several columns of a key other than `choices`, or several answers."""
    for key, column in columns.items():
        if key not in _KEYS:
            raise ValueError(f"unknown key {key!r}: did you mean {nearest(key, _KEYS)}?")
        if not column or (not isinstance(column, str) and key != "choices"):
            raise ValueError(f"key {key!r} needs the name of one column")
    answers = [repr(key) for key in ANSWERS if key in columns]
    if len(answers) > 1:
        raise ValueError(f"keys {' and '.join(answers)} all name the answer: keep the one that says how it is written")


class Mapped:
    """Items read by a column mapping; a key without a mapping has the column of the same name.

    `choices` is a list, a text with a list, or several columns; blank and null choices are left out. `answer` is a
    choice, or its index from 0 where no choice is a number; one of the other keys of `ANSWERS` says which it is. A
    clip may be in `file_name`, as in audio folders of the Hub. Without an `id` an item is named by its place in the
    file.
    """

    name = "mapped"
    keys = frozenset[str]()
    missing_audio_refused = True

    def __init__(self, columns: Columns) -> None:
        self._columns = {key: columns.get(key, key) for key in (*REQUIRED, *OPTIONAL)}
        named = next((key for key in ANSWERS if key in columns), "answer")
        self.answer_key = _one(columns.get(named, "answer"))
        self._answer = ANSWERS[named]
        self._audio_named = "audio" in columns

    def parse(self, item: Item) -> Draft:
        options = options_of(item, self._columns["choices"])
        id_column, audio = self._column("id"), self._column("audio")
        if not self._audio_named and audio not in item.record and "file_name" in item.record:
            audio = "file_name"
        return Draft(
            id=item.identifier(id_column) if id_column in item.record else _place_name(item),
            audio=item.clip(audio),
            text=item.text(self._column("question")),
            choices=options.choices,
            answer=self._answer(options, item.value(self.answer_key), self.answer_key) if item.labelled else "",
            task=item.label(self._column("task")),
            category=item.label(self._column("category")),
            sub_category=item.label(self._column("sub_category")),
            difficulty=item.label(self._column("difficulty")),
        )

    def version(self, _: str) -> str:
        return ""

    def _column(self, key: str) -> str:
        return _one(self._columns[key])


def _place_name(item: Item) -> str:
    """Return an item's place without the file's folder, since files are moved and copied: "train.csv, line 3"."""
    file, _, number = item.place.rpartition(", ")
    return f"{Path(file.strip(_QUOTES)).name}, {number}"


def _one(column: str | Sequence[str]) -> str:
    return column if isinstance(column, str) else column[0]
