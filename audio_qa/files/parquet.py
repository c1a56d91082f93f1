"""Parquet: the rows of a file, a few at a time, and records as the content of a file."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from audio_qa.dataset import DatasetError
from audio_qa.files.rows import ROWS_AT_ONCE, Rows
from audio_qa.formats.item import Item


def is_parquet(path: Path) -> bool:
    """Return whether a file to be written is Parquet, by its name."""
    return path.suffix.lower() == ".parquet"


def check_parquet() -> None:
    """Raise DatasetError if Parquet can neither be read nor written."""
    if find_spec("pyarrow") is None:
        raise DatasetError("Parquet needs pyarrow: install Earshot with the extra 'huggingface', or name another file")


def read_parquet(path: Path, cache: Path | None, *, keep_sound: bool) -> Iterator[Item]:
    """Yield the rows of a Parquet file as `Rows` does. Raises DatasetError if it cannot be read."""
    check_parquet()
    # Part of the optional extra `huggingface`.
    import pyarrow.parquet  # noqa: PLC0415

    with _readable(path):
        # Buffered: a column with sound is read as it is needed, not a whole row group at once.
        file = pyarrow.parquet.ParquetFile(path, buffer_size=2**20, pre_buffer=False)
    with file:
        rows = Rows(str(path), file.schema_arrow.metadata, cache, keep_sound=keep_sound)
        batches = file.iter_batches(batch_size=ROWS_AT_ONCE)
        while True:
            with _readable(path):
                batch = [row for table in islice(batches, 1) for row in table.to_pylist()]
            if not batch:
                return
            yield from rows.items(batch)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn the errors of a file that is not readable, which are of several classes, into a DatasetError."""
    import pyarrow  # noqa: PLC0415

    try:
        yield
    except MemoryError:
        raise
    except (OSError, pyarrow.ArrowException, ValueError) as error:  # ValueError: a date out of range
        detail = f"{str(path)!r}: not readable as Parquet ({error}); fetch or write it again"
        raise DatasetError(" ".join(detail.split())) from error


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
