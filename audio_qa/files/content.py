"""The kind of a question file, told from its content: its name may be any, as that of a link into a cache."""

import csv
import io
import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from audio_qa.dataset import DatasetError, check_file, parse_json

_HEAD = 2**16
"""Bytes of a file's beginning by which its kind is told."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_DELIMITERS = ",\t;|"
_OTHERS = {
    b"\x1f\x8b": "is compressed (gzip); unpack it",
    b"PK\x03\x04": "is a zip archive or a spreadsheet; unpack it, or save the sheet as CSV",
    b"BZh": "is compressed (bzip2); unpack it",
    b"\xfd7zXZ": "is compressed (xz); unpack it",
    b"\x28\xb5\x2f\xfd": "is compressed (zstd); unpack it",
    b"7z\xbc\xaf": "is a 7z archive; unpack it",
    b"ARROW1": "is an Arrow file; save it as Parquet, or name the folder of its dataset",
    b"\xff\xfe": "is text in UTF-16; save it as UTF-8",
    b"\xfe\xff": "is text in UTF-16; save it as UTF-8",
    b"version https://git-lfs": "is a pointer of Git LFS, not the file itself; fetch that with `git lfs pull`",
    b"<": "is a web page or XML, not a question file; fetch the file itself",
}
"""By first bytes, what is wrong with a file of another kind."""


class Content(StrEnum):
    """The containers of questions."""

    PARQUET = "Parquet"
    ARRAY = "a JSON array"
    OBJECT = "a JSON object"
    """One object that is the whole file, other than a single question."""
    LINES = "JSON lines"
    TABLE = "delimited text"


def content_of(path: Path) -> tuple[Content, Mapping[str, Any]]:
    """Return what a file is, and the content of an `OBJECT`.

    Raises DatasetError: no such file, or its content is of no such kind.
    """
    head = _head(path)
    if head.startswith(b"PAR1"):
        return Content.PARQUET, {}
    text = _text(head)
    for start, problem in _OTHERS.items():
        if text.startswith(start):
            raise DatasetError(f"{str(path)!r}: {problem}")
    if b"\0" in head:
        raise DatasetError(f"{str(path)!r}: is not text; name a file of JSON, JSON lines, Parquet, CSV or TSV")
    if text.startswith(b"["):
        return Content.ARRAY, {}
    if text.startswith(b"{"):
        value = _only_object(path)
        return (Content.LINES, {}) if value is None else (Content.OBJECT, value)
    line = text.partition(b"\n")[0]
    return Content.LINES if not line or b"{" in line or _is_json(line) else Content.TABLE, {}


def delimiter_of(text: str) -> str | None:
    """Return the delimiter that divides a table's header, where `text` begins, into most names; None if none does."""
    counts = {
        delimiter: len(next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), []))
        for delimiter in _DELIMITERS
    }
    best = max(counts, key=lambda delimiter: counts[delimiter])
    return best if counts[best] > 1 else None


def _head(path: Path) -> bytes:
    check_file(path)
    with path.open("rb") as file:
        return file.read(_HEAD)


def _text(head: bytes) -> bytes:
    return head.removeprefix(_BYTE_ORDER_MARK).lstrip()


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _only_object(path: Path) -> Mapping[str, Any] | None:
    """Return the JSON object that a file is; None for JSON lines, of which there may be only one."""
    with path.open("rb") as file:
        lines = (line for line in file if _text(line))
        first, more = next(lines), next(lines, None) is not None
    try:
        value = parse_json(_text(first))
    except (ValueError, RecursionError):
        return _whole_object(path) if more else None
    # A single question has at least one text of its own.
    container = any(map(holds_objects, value.values())) or not any(isinstance(v, str) for v in value.values())
    return value if container and not more and "question" not in value else None


def _whole_object(path: Path) -> Mapping[str, Any] | None:
    try:
        value = parse_json(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError):  # lines of which the first is broken; they are read one by one
        return None
    return value if isinstance(value, dict) else None


def holds_objects(value: object) -> bool:
    """Return whether a JSON value is a list with objects, as a key of a question file has it and none of a job file."""
    return isinstance(value, list) and any(isinstance(element, dict) for element in value)
