"""The items of a question file, found by the records of another file about them, such as predictions.

A record names its item by an id, whether number or text; without one by the columns that describe the item, and by all
columns that both files have if those fit several items.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from audio_qa.answer import nfc
from audio_qa.errors import shown
from audio_qa.formats.cells import listed
from audio_qa.formats.item import is_missing
from audio_qa.formats.question_set import ProblemKind, QuestionSet

IDS = ("id", "uniq_id")
DESCRIPTION = ("path", "task_name", "dataset_name", "question", "audio")
_CHOICES = ("choices", "multi_choice", "options", "choice_a", "choice_b", "choice_c", "choice_d")
_WHOLE_FLOAT = re.compile(r"([+-]?[0-9]+)\.0+")
Record = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class KnownItem:
    """An item of a question file."""

    place: int
    """Place among the questions; the items that were left out come after them."""
    left_out: ProblemKind | None = None
    """Why the item was left out; None for a question."""


class _Index:
    """Items by key; a key of several items has none."""

    def __init__(self, entries: Iterable[tuple[str, KnownItem]]) -> None:
        self._items: dict[str, KnownItem | None] = {}
        for key, item in entries:
            self._items[key] = item if self._items.get(key, item) == item else None

    def get(self, key: str) -> KnownItem | None:
        return self._items.get(key)


class ItemIndex:
    """The items of a question file, including those that were left out."""

    def __init__(self, found: QuestionSet, ignored: Sequence[str]) -> None:
        """Index the items of a question set; `ignored` are columns that do not describe them."""
        self._records: list[tuple[KnownItem, Record]] = [
            (KnownItem(place), record) for place, record in enumerate(found.records)
        ]
        for problem in found.problems:
            if problem.record and not problem.refused:
                self._records.append((KnownItem(len(self._records), problem.kind), problem.record))
        self._own = _id_columns(found)
        present = {key for _, record in self._records for key in record}
        self._foreign = [key for key in IDS if key not in present]
        self._columns = sorted(present.difference(ignored))
        named = [(question.id, KnownItem(place)) for place, question in enumerate(found.questions)]
        named += [(text, item) for item, record in self._records for text in self._ids(record, self._own)]
        self._by_id = _Index(named)
        self._by_similar_id = _Index((_similar(text), item) for text, item in named)
        self._by_columns: dict[tuple[str, ...], _Index] = {}

    def find(self, record: Record) -> KnownItem | None:
        """Return the item that a record is about; None if there is none, or if it fits several."""
        for text in self._ids(record, self._own):
            return self._named(text)
        for text in self._ids(record, self._foreign):
            if item := self._named(text):
                return item
        described = tuple(key for key in DESCRIPTION if key in record and key in self._columns)
        shared = tuple(key for key in self._columns if key in record)
        return self._described(record, described) or self._described(record, shared)

    def name(self, record: Record) -> str | None:
        """Return the name of a record's item for messages; None if nothing identifies an item."""
        for text in self._ids(record, [*self._own, *self._foreign]):
            return f"item {shown(text)}"
        values = [record[key] for key in (*DESCRIPTION, *self._columns) if key in record]
        return f"item {shown(values)}" if values else None

    def other_choices(self, item: KnownItem, record: Record, *, in_order: bool) -> str | None:
        """Return the column in which a record has other choices than its item; None if it has none or the same.

        Such a record is about another version of the file, or the choices were reordered, which `in_order` forbids.
        """
        own = self._records[item.place][1]
        for column in _CHOICES:
            if column in own and column in record:
                several = not column.startswith("choice_")
                ours, theirs = (_choices(cells[column], several=several) for cells in (own, record))
                if ours is None or theirs is None or ours == theirs:
                    continue
                if in_order or sorted(ours) != sorted(theirs):
                    return column
        return None

    def _named(self, text: str) -> KnownItem | None:
        return self._by_id.get(text) or self._by_similar_id.get(_similar(text))

    def _described(self, record: Record, columns: tuple[str, ...]) -> KnownItem | None:
        if not columns:
            return None
        if columns not in self._by_columns:
            self._by_columns[columns] = _Index((_description(r, columns), item) for item, r in self._records)
        return self._by_columns[columns].get(_description(record, columns))

    @staticmethod
    def _ids(record: Record, columns: Sequence[str]) -> Iterator[str]:
        """Yield the ids that a record gives in columns."""
        return (text for column in columns if (text := _id_text(record.get(column))))


def _choices(value: object, *, several: bool) -> list[str] | None:
    """Return the choices in a cell, a list or a text with a list, or else one choice; None for anything else."""
    with suppress(ValueError):  # a list as other programs write it, which is not compared
        found = listed(value) if several else [value]
        if isinstance(found, list | tuple):
            return ["" if is_missing(choice) else _similar(str(choice)) for choice in found]
    return None


def _id_columns(found: QuestionSet) -> list[str]:
    """Return the columns that hold the ids of the questions."""
    pairs = list(zip(found.questions, found.records, strict=True))
    first = pairs[0][1] if pairs else {}
    columns = [key for key in first if all(_id_text(record.get(key)) == question.id for question, record in pairs)]
    return sorted(columns, key=lambda key: key not in IDS)


def _id_text(value: object) -> str:
    """Return an id as text: 1, 1.0 and "1" are one id, which table programs turn into one another; "" without one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""


def _similar(text: str) -> str:
    """Return an id without what programs change in it: the Unicode form, white space, and ".0"."""
    text = nfc(text).strip()
    whole = _WHOLE_FLOAT.fullmatch(text)
    return whole[1] if whole else text


def _description(record: Record, columns: Sequence[str]) -> str:
    return nfc(json.dumps([record.get(column) for column in columns], ensure_ascii=False, default=str))
