"""Files that are complete at any moment: strict JSON, one record per line, and replacement by renaming."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from audio_qa.errors import InputError, one_line
from audio_qa.whole_file import whole_file


class RunDirectoryError(InputError):
    """A run directory that cannot be used. The message is one line: the path, the problem, how to fix it."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(one_line(f"{str(path)!r}: {problem}"))


def current_steps(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return records with a `step`, ascending: each replaces earlier ones of the same or a later step."""
    kept: list[dict[str, Any]] = []
    for record in records:
        while kept and kept[-1]["step"] >= record["step"]:
            kept.pop()
        kept.append(record)
    return kept


def json_text(value: object, indent: int | None = None) -> str:
    """Return strict JSON. A float that is not finite becomes null. Raises TypeError for a type JSON cannot hold."""
    plain = _plain(value)
    text = json.dumps(plain, ensure_ascii=False, allow_nan=False, indent=indent)
    # Half a surrogate pair (an undecodable file name, say) cannot be encoded as UTF-8, but it can be escaped.
    half = any("\ud800" <= character <= "\udfff" for character in text) if not text.isascii() else False
    return json.dumps(plain, allow_nan=False, indent=indent) if half else text


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def replace_file(path: Path, text: str) -> None:
    """Replace a file atomically: readers, and a crash, see either the old text or the new one."""
    with whole_file(path) as file:
        file.write(text.encode())


def record_of(path: Path, number: int, line: bytes) -> dict[str, Any]:
    """Return the record in a line of a file. Raises RunDirectoryError with the line's number if it is not an object."""

    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is not a JSON number")

    try:
        record = json.loads(line, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise RunDirectoryError(path, f"line {number} is not JSON ({error}); restore the file or remove it") from error
    if not isinstance(record, dict):
        raise RunDirectoryError(path, f"line {number} is not a JSON object; restore the file or remove it")
    return record


def torn_bytes(path: Path) -> int:
    """Return the number of bytes after the last line break of a file; 0 if it is missing."""
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        end = size = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 65536)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return size - (start + found + 1)
            end = start
        return size
