"""The records of a question file: JSON in several forms, Parquet, or delimited text."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from audio_qa.dataset import BadLine, DatasetError, ItemLine, kind_of, parse_json, read_lines
from audio_qa.errors import shown
from audio_qa.files.content import Content, content_of, holds_objects
from audio_qa.files.delimited import read_table
from audio_qa.files.parquet import read_parquet
from audio_qa.formats.item import Item
from audio_qa.formats.question_set import Problem, ProblemKind

Entry = Item | ItemLine | Problem
"""A record of a file, or the reason why there is none at its place."""


def read_records(path: Path, cache: Path | None = None, *, keep_sound: bool = False) -> Iterator[Entry]:
    """Yield the records of a file in order, and a problem for each that is not an object or a row.

    JSON lines are yielded as `ItemLine`, which also reads Earshot's own schema.

    Args:
        cache: folder for clips whose sound the file contains itself.
        keep_sound: write these clips; otherwise they are named only.

    Raises:
        DatasetError: no such file, or its content as a whole cannot be read.
    """
    content, whole = content_of(path)
    if content is Content.PARQUET:
        yield from read_parquet(path, cache, keep_sound=keep_sound)
    elif content is Content.TABLE:
        yield from read_table(path)
    elif content is Content.ARRAY:
        yield from _items(_array(path), path)
    elif content is Content.OBJECT:
        yield from _items(_list_in(whole, path), path)
    else:
        for line in read_lines(path):
            if isinstance(line, BadLine):
                yield Problem(ProblemKind.ITEM, f"{str(path)!r}, line {line.number}", "", line.detail)
            else:
                yield line


def _array(path: Path) -> Sequence[Any]:
    try:
        values: Sequence[Any] = parse_json(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        detail = f"{str(path)!r}: not JSON ({error}); write an array of objects, or one object per line"
        raise DatasetError(" ".join(detail.split())) from error
    return values


def _list_in(whole: Mapping[str, Any], path: Path) -> Sequence[Any]:
    """Return the only list of objects in a JSON object, as in `{"data": [...]}`. Raises DatasetError."""
    names = [key for key, value in whole.items() if holds_objects(value)]
    if len(names) != 1:
        several = f"several lists of objects ({', '.join(shown(name) for name in names[:4])})"
        raise DatasetError(
            f"{str(path)!r}: a JSON object with {several if names else 'no list of objects'}, so its questions are not "
            "known; write an array of objects, or one object per line"
        )
    found: Sequence[Any] = whole[names[0]]
    return found


def _items(values: Sequence[Any], path: Path) -> Iterator[Item | Problem]:
    for number, value in enumerate(values, start=1):
        place = f"{str(path)!r}, item {number}"
        if isinstance(value, dict):
            yield Item(value, place)
        else:
            yield Problem(ProblemKind.ITEM, place, "", f"{kind_of(value)}, not an object; write {{...}}")
