"""The records of a question file: a JSON array of objects, JSON lines, or the rows of a Parquet file."""

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from audio_qa.dataset import BadLine, DatasetError, ItemLine, kind_of, read_lines
from audio_qa.formats.item import Item
from audio_qa.formats.question_set import Problem, ProblemKind


def read_records(path: Path) -> Iterator[Item | ItemLine | Problem]:
    """Yield the records of a file in order, and a problem for each that is not a JSON object.

    JSON lines are yielded as `ItemLine`, which also reads Earshot's own schema.

    Raises:
        DatasetError: no such file, an array that is not valid JSON, or a Parquet file that cannot be read.
    """
    if path.is_file() and is_parquet(path):
        yield from _rows(path)
        return
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


def is_parquet(path: Path) -> bool:
    """Return whether a file is Parquet, by its name."""
    return path.suffix == ".parquet"


def check_parquet() -> None:
    """Raise DatasetError if Parquet can neither be read nor written."""
    if find_spec("pyarrow") is None:
        raise DatasetError("Parquet needs pyarrow: install Earshot with the extra 'huggingface', or name another file")


def _rows(path: Path) -> Iterator[Item]:
    check_parquet()
    # Part of the optional extra `huggingface`.
    import pyarrow  # noqa: PLC0415
    import pyarrow.parquet  # noqa: PLC0415

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        detail = f"{str(path)!r}: not readable as Parquet ({error}); fetch or write it again"
        raise DatasetError(" ".join(detail.split())) from error
    for number, row in enumerate(rows, start=1):
        yield Item(row, f"{str(path)!r}, row {number}")


def parquet_bytes(path: Path, records: Sequence[Mapping[str, object]]) -> bytes:
    """Return records as the content of a Parquet file; errors name `path`.

    Raises DatasetError if pyarrow is not installed, or if records differ in the types of their values.
    """
    check_parquet()
    import pyarrow  # noqa: PLC0415
    import pyarrow.parquet  # noqa: PLC0415

    # A table has the columns of its first record only, and others may have more.
    columns = list(dict.fromkeys(key for record in records for key in record))
    try:
        table = pyarrow.table({key: [record.get(key) for record in records] for key in columns})
    except pyarrow.ArrowException as error:
        detail = f"{str(path)!r}: the records do not fit into columns ({error}); name a file that ends in .json"
        raise DatasetError(" ".join(detail.split())) from error
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink)
    return bytes(sink.getvalue())


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
