"""The records of a question file: a JSON array of objects, or JSON lines."""

import json
from collections.abc import Iterator
from pathlib import Path

from audio_qa.dataset import BadLine, DatasetError, Line, kind_of, read_lines
from audio_qa.formats.item import Item
from audio_qa.formats.question_set import Problem, ProblemKind


def read_records(path: Path) -> Iterator[Item | Line | Problem]:
    """A file's records in their order; for what is no JSON object, the problem.

    JSON lines come as `Line`, which also reads Earshot's own schema.

    Raises:
        DatasetError: no such file, or an array that is not valid JSON.
    """
    if path.is_file() and _is_array(path):
        yield from _array(path)
        return
    for line in read_lines(path):
        if isinstance(line, BadLine):
            yield Problem(ProblemKind.ITEM, f"{str(path)!r}, line {line.number}", "", line.detail)
        else:
            yield line


def _is_array(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["


def _array(path: Path) -> Iterator[Item | Problem]:
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        detail = f"{str(path)!r}: not JSON ({error}); write an array of objects, or one object per line"
        raise DatasetError(" ".join(detail.split())) from error
    for number, value in enumerate(values, start=1):
        place = f"{str(path)!r}, item {number}"
        if isinstance(value, dict):
            yield Item(value, place)
        else:
            yield Problem(ProblemKind.ITEM, place, "", f"{kind_of(value)}, not an object; write {{...}}")
