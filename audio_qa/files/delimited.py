"""Delimited text: CSV, TSV and tables with semicolons or bars, whose first row names the columns."""

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from audio_qa.dataset import DatasetError
from audio_qa.errors import shown
from audio_qa.files.content import delimiter_of
from audio_qa.formats.item import Item
from audio_qa.formats.question_set import Problem, ProblemKind

_HEADER = 2**16
"""Characters in which the header ends."""
_LONGEST_CELL = 2**27
"""Characters of a cell; the default of Python's reader is shorter than some questions."""


def read_table(path: Path) -> Iterator[Item | Problem]:
    """Yield the rows of a table in order; every cell is text, and blank if it is missing.

    Lines without text do not count, such as the empty rows of a spreadsheet.

    A row with more or fewer cells than the header is yielded as a problem. A row is named by its first line.

    Raises DatasetError: not UTF-8, no header with at least two different names, or quotes that do not end.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _rows(file, path)
    except UnicodeDecodeError as error:
        raise DatasetError(f"{str(path)!r}: not UTF-8 ({error.reason}); save the file as UTF-8") from error


def _rows(file: TextIO, path: Path) -> Iterator[Item | Problem]:
    beginning = file.read(_HEADER).lstrip("\r\n")
    delimiter = delimiter_of(beginning)
    if delimiter is None:
        raise DatasetError(
            f"{str(path)!r}: neither JSON nor Parquet, and its first line does not name columns; write one JSON object "
            "per line, or a table whose first line is as id,audio,question"
        )
    file.seek(0)
    csv.field_size_limit(_LONGEST_CELL)
    # Spaces after delimiters belong to the cells, unless the header has them too.
    spaced = f"{delimiter} " in beginning.partition("\n")[0]
    reader = csv.reader(file, delimiter=delimiter, skipinitialspace=spaced, strict=True)
    names: list[str] = []
    line = 1
    try:
        for cells in reader:
            place, line = f"{str(path)!r}, line {line}", reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if not names:
                names = _header(cells, path)
            elif len(cells) != len(names):
                detail = f"{len(cells)} cells, and {len(names)} columns; put texts with {delimiter!r} between quotes"
                yield Problem(ProblemKind.ITEM, place, "", detail)
            else:
                yield Item({name: cell for name, cell in zip(names, cells, strict=True) if name}, place, table=True)
    except csv.Error as error:
        raise DatasetError(
            f"{str(path)!r}, line {line}: not a table ({error}); double the quotes within a quoted text"
        ) from error


def _header(cells: Sequence[str], path: Path) -> list[str]:
    """Return the names of the columns; a blank one, as of an index that pandas wrote, is not read."""
    names = [cell.strip() for cell in cells]
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if twice:
        raise DatasetError(f"{str(path)!r}: column {shown(twice[0])} exists twice; rename one")
    return names
