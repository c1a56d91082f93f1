"""Hugging Face `datasets`: by name, `hf:OWNER/NAME#SPLIT`, or a folder, `FOLDER#SPLIT`.

A folder is one that `save_to_disk` wrote, or a copy of a dataset of the Hub: Parquet or other files in folders by
split. An audio folder, clips with a `metadata` file, is read as that question file.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from audio_qa.audio import is_file
from audio_qa.dataset import DatasetError
from audio_qa.errors import cause_of
from audio_qa.files.rows import ROWS_AT_ONCE, Rows
from audio_qa.formats.item import Item

_PREFIX = "hf:"
_TABLES = (".parquet", ".arrow", ".json", ".jsonl", ".csv", ".tsv")
_SAVED = ("state.json", "dataset_dict.json")
"""One of these files is in every folder that `save_to_disk` wrote."""
_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""Names of the question file in an audio folder; its column `file_name` has the clips."""


def is_dataset(location: str) -> bool:
    """Return whether a location is a Hugging Face dataset: a name, or a folder."""
    return location.startswith(_PREFIX) or (not is_file(location) and folder_of(location) is not None)


def folder_of(location: str) -> Path | None:
    """Return the folder of a dataset on this machine; None for one that is fetched from the Hub."""
    folder = Path(location.removeprefix(_PREFIX).partition("#")[0])
    try:
        return folder if folder.is_dir() else None
    except (OSError, ValueError):  # no folder can have this path
        return None


def metadata_file(location: str) -> Path | None:
    """Return the question file of an audio folder of the Hub, or of one of its splits; None for other datasets.

    Raises DatasetError for a folder with several splits of which none is named.
    """
    folder, split = folder_of(location), location.partition("#")[2]
    if folder is None or is_file(location):
        return None
    splits = {path.parent.name: path for name in _METADATA for path in sorted(folder.glob(f"*/{name}"))}
    own = next((folder / name for name in _METADATA if (folder / name).is_file()), None)
    if own is not None:
        splits["train"] = own  # the split of a folder without any
    if not splits:
        return None
    if split not in splits and (split or len(splits) > 1):
        problem = f"no split {split!r}" if split else "several splits"
        raise DatasetError(f"{location!r}: has {problem}; name one of {', '.join(splits)}, as in 'FOLDER#SPLIT'")
    return splits[split] if split else next(iter(splits.values()))


def read_dataset(location: str, cache: Path | None, *, keep_sound: bool) -> Iterator[Item]:
    """Yield the rows of a dataset as `Rows` does.

    Raises:
        DatasetError: the extra `huggingface` is not installed, or there is no such dataset or split.
    """
    found = _split_of(location)
    rows = Rows(location, found.features.arrow_schema.metadata, cache, keep_sound=keep_sound)
    # As Arrow, clips are the bytes of their files: `audio_qa.audio` decodes them.
    for table in found.with_format("arrow").iter(batch_size=ROWS_AT_ONCE):
        yield from rows.items(table.to_pylist())


def _split_of(location: str) -> Any:
    """Return one split of a dataset."""
    name, _, split = location.partition("#")
    found = _loaded(location, split)
    if not isinstance(found, Mapping):
        return found
    if not split and len(found) > 1:
        raise DatasetError(f"{location!r}: has several splits; name one, as in {name + '#' + next(iter(found))!r}")
    if split and split not in found:
        raise DatasetError(f"{location!r}: has no split {split!r} (it has {', '.join(found)})")
    return found[split or next(iter(found))]


def _loaded(location: str, split: str) -> Any:
    """Return a dataset, or its splits by name."""
    folder = folder_of(location)
    hint = "correct the name or the split"
    if folder is not None and not location.startswith(_PREFIX):
        hint = "name a question file, or a dataset folder that save_to_disk or the Hub wrote"
        if not _has_tables(folder):
            raise DatasetError(f"{location!r}: is a folder; {hint}")
    try:
        import datasets  # noqa: PLC0415
    except ImportError as error:
        raise DatasetError(
            f"{location!r}: not a file, and a Hugging Face dataset needs the library `datasets`; name a file, or "
            "install Earshot with the extra 'huggingface'"
        ) from error
    datasets.disable_progress_bars()
    try:
        if folder is None:
            name = location.removeprefix(_PREFIX).partition("#")[0]
            return datasets.load_dataset(name, split=split or "train")
        if any((folder / file).is_file() for file in _SAVED):
            return datasets.load_from_disk(str(folder))
        return datasets.load_dataset(str(folder.absolute()))
    # A missing dataset, a missing split and network failures raise unrelated classes.
    except Exception as error:
        raise DatasetError(f"{location!r}: cannot be loaded ({_reason(error)}); {hint}") from error


def _has_tables(folder: Path) -> bool:
    """Return whether a folder or one in it has a file of a dataset, rather than clips alone."""
    files = (path for pattern in ("*", "*/*") for path in folder.glob(pattern))
    return any(path.suffix.lower() in _TABLES or path.name in _SAVED for path in files)


def _reason(error: BaseException) -> str:
    """Return the error that came first, as a message names it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return cause_of(error)
