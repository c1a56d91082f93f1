"""Predictions in the benchmark's format: its question file, with one more key in each item.

An item without a prediction lacks the key, or has the value by which the benchmark's script recognises it.
"""

import json
import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from audio_qa.answer import answer_key
from audio_qa.dataset import DatasetError, ItemLine
from audio_qa.errors import one_line, shown
from audio_qa.files.parquet import check_parquet, is_parquet, parquet_bytes
from audio_qa.files.records import read_records
from audio_qa.formats.item import Item
from audio_qa.formats.question_set import Problem, QuestionSet
from audio_qa.question import Question
from audio_qa.scoring.identity import DESCRIPTION, IDS, ItemIndex, KnownItem
from audio_qa.scoring.rules import Rule
from audio_qa.whole_file import whole_file

_TABLES = (".csv", ".tsv")
_WHOLE_FLOAT = re.compile(r"-?[0-9]{1,15}\.0")


def write_predictions(
    path: str | os.PathLike[str], found: QuestionSet, predictions: Sequence[str | None], rule: Rule
) -> None:
    """Write the records of a question set with their predictions; the file appears whole or not at all.

    The format is JSON lines for a path that ends in `.jsonl`, Parquet for `.parquet`, else a JSON array.

    Raises:
        ValueError: different lengths.
        DatasetError: Parquet without its library, or records that do not form a table.
    """
    path = Path(path)
    items = [
        {**record, **({} if submitted is None else dict.fromkeys(rule.keys, submitted))}
        for record, prediction in zip(found.records, predictions, strict=True)
        for submitted in (rule.missing if prediction is None else prediction,)
    ]
    if is_parquet(path):
        data = parquet_bytes(path, items)
    elif path.suffix.lower() == ".jsonl":
        data = "".join(json.dumps(item, ensure_ascii=False, default=str) + "\n" for item in items).encode()
    else:
        data = (json.dumps(items, ensure_ascii=False, indent=2, default=str) + "\n").encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(data)


def check_submission(path: Path) -> None:
    """Raise DatasetError if predictions cannot be written to a path, before any are generated."""
    if is_parquet(path):
        check_parquet()
    if path.suffix.lower() in _TABLES:
        raise DatasetError(
            f"{str(path)!r}: predictions are not written as delimited text; name a file that ends in .json, .jsonl or "
            ".parquet"
        )
    if path.is_dir():
        raise DatasetError(f"{str(path)!r}: is a folder; name a file for the predictions")
    folder = next(place for place in path.absolute().parents if place.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise DatasetError(f"{str(path)!r}: no file can be created in {str(folder)!r}; name another folder")


def check_predictions(path: Path, found: QuestionSet, rule: Rule) -> None:
    """Raise DatasetError if predictions for questions cannot be written under the name of a file.

    All that their records can spoil is tried, with predictions of both kinds, before any question is asked.
    """
    predictions = ["", *(None for _ in found.questions[1:])]
    with TemporaryDirectory() as folder:
        try:
            write_predictions(Path(folder) / path.name, found, predictions, rule)
        except DatasetError:
            raise
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise DatasetError(
                f"{found.source.location!r}: its records cannot be written to {path.name!r} "
                f"({one_line(str(error), 200)}); correct them, or name a file that ends in .json"
            ) from error


def submission_name(location: str, rule: Rule) -> str:
    """Return the default file name of predictions, with the suffix that the benchmark's script reads.

    If the script reads any, it is the suffix of the question file. Without its library, Parquet becomes JSON.
    """
    suffix = rule.ending or Path(location).suffix.lower()
    if suffix == ".parquet" and find_spec("pyarrow") is None:
        suffix = ".json"
    return f"predictions{suffix if suffix in ('.jsonl', '.parquet') else '.json'}"


@dataclass(frozen=True, slots=True)
class Predictions:
    """The predictions of a file, as they were handed in."""

    by_question: tuple[str | None, ...]
    """In the order of the questions; None for a missing one."""
    left_out: Mapping[str, int]
    """Number of predictions for items that are left out, which do not count, by kind of problem."""


def read_predictions(path: str | os.PathLike[str], found: QuestionSet, rule: Rule) -> Predictions:
    """Return the predictions of a file in the benchmark's format.

    Items are matched to questions by their identity in the file, so their order does not matter. Of the rule's keys,
    the first one with a value that is not blank counts. A number is a prediction too, of the only choice of its value.

    Raises:
        DatasetError: no such file, a file without predictions, an item that is not an object or names no question, a
            prediction that is neither text nor a number, a prediction for a question that is not in the question file
            or has other choices there, or two for one.
    """
    path = Path(path)
    records = _records_by_item(path, found, rule)
    if not any(key in record for _, record in records.values() for key in rule.keys):
        keys = " or ".join(map(repr, rule.keys))
        raise DatasetError(
            f"{str(path)!r}: holds no predictions; name the file that the benchmark's script reads (key {keys})"
        )
    asked = [records.get(KnownItem(place)) for place in range(len(found.questions))]
    if not any(asked):
        raise DatasetError(
            f"{str(path)!r}: all {len(records)} predictions are for items that are left out; name others"
        )
    predictions = (
        None if named is None else _prediction(f"{str(path)!r}: {named[0]}", named[1], question, rule)
        for question, named in zip(found.questions, asked, strict=True)
    )
    left_out = Counter(
        item.left_out.value
        for item, (_, record) in records.items()
        if item.left_out is not None and _given(record, rule) is not None
    )
    return Predictions(tuple(predictions), dict(sorted(left_out.items())))


def _records_by_item(path: Path, found: QuestionSet, rule: Rule) -> dict[KnownItem, tuple[str, Mapping[str, object]]]:
    """Return the records of a file by the item that each is about, with its name. Raises DatasetError."""
    index = ItemIndex(found, rule.keys)
    records: dict[KnownItem, tuple[str, Mapping[str, object]]] = {}
    for number, entry in enumerate(read_records(path), start=1):
        if isinstance(entry, Problem):
            raise DatasetError(str(entry))
        place, item, name = f"{str(path)!r}, item {number}", index.find(entry.record), index.name(entry.record)
        if name is None:
            keys = ", ".join((*IDS, *DESCRIPTION))
            raise DatasetError(f"{place}: has none of the keys that identify a question ({keys})")
        if item is None:
            raise DatasetError(
                f"{place}: {name} is not in {found.source.location!r}, or is not the only one like it; name the file "
                "it is about, or give items their ids"
            )
        if item in records:
            raise DatasetError(f"{place}: {name} is listed twice; leave one out")
        if column := index.other_choices(item, entry.record, in_order=rule.by_letter):
            raise DatasetError(
                f"{place}: {name} has other {column!r} than in {found.source.location!r}; name the version of the file "
                "that the predictions are for, or leave these keys out of the predictions if they do not matter"
            )
        records[item] = name, _with_numbers(entry, rule)
    return records


def _with_numbers(entry: Item | ItemLine, rule: Rule) -> Mapping[str, object]:
    """Return a record with numbers for predictions like "2.0" of tables that are text alone, as pandas writes 2."""
    record = entry.record
    if not isinstance(entry, Item) or not entry.table or not all(isinstance(value, str) for value in record.values()):
        return record
    numbers = {key: float(str(record[key])) for key in rule.keys if _WHOLE_FLOAT.fullmatch(str(record.get(key)))}
    return {**record, **numbers}


def _prediction(place: str, record: Mapping[str, object], question: Question, rule: Rule) -> str | None:
    value = _given(record, rule)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DatasetError(f"{place}: the prediction {shown(value)} is not text; write a string")
    if str(value) in question.choices:
        return str(value)
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    named = answer_key(text, question.choices)
    return named if isinstance(named, str) else text


def _given(record: Mapping[str, object], rule: Rule) -> object:
    """Return the first prediction that is not blank; a blank one if there are no others, else None."""
    blank: object = None
    for value in (record.get(key) for key in rule.keys):
        # Table programs write a missing value as NaN.
        if value is None or value == rule.missing or (isinstance(value, float) and math.isnan(value)):
            continue
        if not isinstance(value, str) or value.strip():
            return value
        blank = value
    return blank
