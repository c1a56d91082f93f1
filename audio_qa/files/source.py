"""The records of a location, whatever is there: a file, a URL, a folder, or a dataset of the Hub."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from audio_qa.audio import is_file
from audio_qa.dataset import DatasetError, check_file
from audio_qa.files.guard import Guard
from audio_qa.files.hugging_face import folder_of, is_dataset, metadata_file, read_dataset
from audio_qa.files.records import Entry, read_records
from audio_qa.files.remote import FetchError, fetch, is_url, parent


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """The records of a location, at least one."""

    entries: list[Entry]
    sha256: str
    """Hash of the file's bytes, or of the records if there is no single file."""
    folder: str
    """Folder or URL that relative clip paths start at."""
    name: str
    """Name for the dataset."""


def open_source(location: str, cache: Path | None, *, keep_sound: bool, guard: Guard | None = None) -> OpenedFile:
    """Return the records of a location.

    Args:
        cache: folder for fetched files and for clips that the file contains.
        keep_sound: write these clips; otherwise they are named only.
        guard: called before anything is read. With it only files are read, as what a dataset loads is not known.

    Raises:
        DatasetError: nothing is there, it cannot be read as a whole, or it has no items.
    """
    if guard is not None:
        guard(location)
        if not is_file(location):
            raise DatasetError(f"{location!r}: is not a file on this machine, and nothing else is read here")
    rows = None if cache is None else cache / "rows"
    metadata = metadata_file(location)
    if metadata is not None:
        source = _file(metadata, rows, keep_sound, name=metadata.absolute().parent.name)
    elif is_dataset(location):
        source = _dataset(location, rows, keep_sound)
    elif is_url(location):
        path = _fetched(location, cache)
        source = _file(path, rows, keep_sound, name=path.stem, folder=parent(location))
    else:
        source = _file(Path(location), rows, keep_sound, name=Path(location).stem)
    if not source.entries:
        raise DatasetError(f"{location!r}: holds no question; write a JSON array, or one JSON object per line")
    return source


def _file(path: Path, rows: Path | None, keep_sound: bool, *, name: str, folder: str | None = None) -> OpenedFile:
    check_file(path)
    entries = list(read_records(path, rows, keep_sound=keep_sound))  # first: it refuses most files at once
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    # Links stay: in a cache of the Hub, clips lie next to the link and not next to the file that it leads to.
    return OpenedFile(entries, sha256, str(path.absolute().parent) if folder is None else folder, name)


def _dataset(location: str, rows: Path | None, keep_sound: bool) -> OpenedFile:
    found = list(read_dataset(location, rows, keep_sound=keep_sound))
    # Clips that the dataset contains are named by their hashes.
    sha256 = records_sha256({**row.record, **{k: Path(v).name for k, v in row.clips.items()}} for row in found)
    folder = (folder_of(location) or Path()).absolute()
    name = Path(location.removeprefix("hf:").partition("#")[0]).name or folder.name
    return OpenedFile([*found], sha256, str(folder), name)


def records_sha256(records: Iterable[Mapping[str, object]]) -> str:
    """Return the hash of records that do not come from a single file."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps(record, ensure_ascii=True, sort_keys=True, default=repr).encode() + b"\n")
    return digest.hexdigest()


def _fetched(url: str, cache: Path | None) -> Path:
    """Return the path of a URL's question file on this machine."""
    if cache is None:
        raise DatasetError(f"{url!r}: URLs are not read here; name a file")
    try:
        return fetch(url, cache, current=True)
    except FetchError as error:
        raise DatasetError(str(error)) from error
