"""Any JSON objects, by a mapping from Earshot's keys to columns: `{audio: wav, choices: [a, b], answer: label}`."""

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from audio_qa.formats.item import Draft, Item, ItemError, checked_choices

REQUIRED = ("audio", "question", "choices", "answer")
OPTIONAL = ("id", "task", "category", "sub_category", "difficulty")
Columns = Mapping[str, str | Sequence[str]]
"""By key of Earshot's schema: a column of the file, or for `choices` several columns with one choice each."""


def check_columns(columns: Columns) -> None:
    """Raise ValueError for a key that questions do not have, or for several columns of a key other than `choices`."""
    for key, column in columns.items():
        if key not in (*REQUIRED, *OPTIONAL):
            near = get_close_matches(key, (*REQUIRED, *OPTIONAL), n=1, cutoff=0.0)[0]
            raise ValueError(f"unknown key {key!r}: did you mean {near!r}?")
        if not column or (not isinstance(column, str) and key != "choices"):
            raise ValueError(f"key {key!r} needs the name of one column")


class Mapped:
    """Items read by a column mapping; a key without a mapping has the column of the same name.

    `choices` is a list, a text with a JSON list, or several columns, of which empty ones are left out. `answer` is a
    choice, or its index from 0. Without an `id` an item is named by its place in the file.
    """

    name = "mapped"
    keys = frozenset[str]()
    missing_audio_refused = True

    def __init__(self, columns: Columns) -> None:
        self._columns = {key: columns.get(key, key) for key in (*REQUIRED, *OPTIONAL)}

    def parse(self, item: Item) -> Draft:
        choices = self._choices(item)
        answer = self._column("answer")
        index = isinstance(item.record.get(answer), int)
        return Draft(
            id=item.identifier(self._column("id")) if self._column("id") in item.record else item.place,
            audio=item.text(self._column("audio")),
            text=item.text(self._column("question")),
            choices=choices,
            answer=item.answer_at(answer, choices) if index else item.answer(answer, choices),
            task=item.label(self._column("task")),
            category=item.label(self._column("category")),
            sub_category=item.label(self._column("sub_category")),
            difficulty=item.label(self._column("difficulty")),
        )

    def version(self, _: str) -> str:
        return ""

    def _column(self, key: str) -> str:
        column = self._columns[key]
        return column if isinstance(column, str) else column[0]

    def _choices(self, item: Item) -> tuple[str, ...]:
        column = self._columns["choices"]
        if not isinstance(column, str):
            return checked_choices([v for c in column if (v := item.record.get(c))], "the choices", blank=False)
        value = item.record.get(column)
        if isinstance(value, str) and value.lstrip().startswith("["):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:
                raise ItemError(f"{column!r} is not a JSON list ({error}); write a list of strings") from error
            return checked_choices(value, repr(column), blank=False)
        return item.choices(column)
