"""Predictions in the benchmark's format: its question file, with one more key in each item.

An item without a prediction lacks the key, or has the value by which the benchmark's script recognises it.
"""

import json
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from audio_qa.dataset import DatasetError
from audio_qa.files.records import check_parquet, is_parquet, parquet_bytes, read_records
from audio_qa.formats.question_set import Problem, QuestionSet
from audio_qa.scoring.rules import Rule
from audio_qa.whole_file import whole_file

_IDS = ("id", "uniq_id")
_DESCRIPTION = ("path", "task_name", "dataset_name", "question", "audio")
_IDENTIFYING = _IDS + _DESCRIPTION
"""Keys of an item that identify its question: one of the ids, else the description."""


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
    elif path.suffix == ".jsonl":
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
    if path.is_dir():
        raise DatasetError(f"{str(path)!r}: is a folder; name a file for the predictions")
    folder = next(place for place in path.absolute().parents if place.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise DatasetError(f"{str(path)!r}: no file can be created in {str(folder)!r}; name another folder")


def submission_name(location: str, rule: Rule) -> str:
    """Return the default file name of predictions, with the suffix that the benchmark's script reads.

    If the script reads any, it is the suffix of the question file. Without its library, Parquet becomes JSON.
    """
    suffix = rule.ending or Path(location).suffix
    if suffix == ".parquet" and find_spec("pyarrow") is None:
        suffix = ".json"
    return f"predictions{suffix if suffix in ('.jsonl', '.parquet') else '.json'}"


def read_predictions(path: str | os.PathLike[str], found: QuestionSet, rule: Rule) -> list[str | None]:
    """Return the predictions of a file in the benchmark's format, in the order of the questions; None for missing ones.

    Items are matched to questions by their identity in the file, so their order does not matter.

    Raises:
        DatasetError: no such file, a file without predictions, an item that is not an object or names no question, a
            prediction that is not text, a prediction for a question that is not in the question file, or two for one.
    """
    path = Path(path)
    by_identity: dict[str, str | None] = {}
    known = {_identity(record) for record in found.records}
    for number, entry in enumerate(read_records(path), start=1):
        if isinstance(entry, Problem):
            raise DatasetError(str(entry))
        key = _identity(entry.record)
        if key not in known and not any(name in entry.record for name in _IDENTIFYING):
            keys = ", ".join(_IDENTIFYING)
            raise DatasetError(f"{str(path)!r}, item {number}: has none of the keys that identify a question ({keys})")
        if key not in known:
            raise DatasetError(f"{str(path)!r}: {key} is not in {found.source.location!r}; name the file it is about")
        if key in by_identity:
            raise DatasetError(f"{str(path)!r}: {key} is listed twice; leave one out")
        by_identity[key] = _prediction(path, key, entry.record, rule)
    if not by_identity:
        raise DatasetError(f"{str(path)!r}: holds no predictions; name the file that the benchmark's script reads")
    return [by_identity.get(_identity(record)) for record in found.records]


def _prediction(path: Path, key: str, record: Mapping[str, object], rule: Rule) -> str | None:
    value = next((record[name] for name in rule.keys if name in record), None)
    if value is not None and not isinstance(value, str):
        raise DatasetError(f"{str(path)!r}: {key}: the prediction {value!r} is not text; write a string")
    return None if value == rule.missing else value


def _identity(record: Mapping[str, object]) -> str:
    """Return the identity of a benchmark's item."""
    for name in _IDS:
        if name in record:
            return f"item {record[name]!r}"
    named = [record.get(name) for name in _DESCRIPTION]
    return f"item {json.dumps(named, default=str)}"
