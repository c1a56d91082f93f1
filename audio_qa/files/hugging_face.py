"""Hugging Face `datasets`: by name, `hf:OWNER/NAME#SPLIT`, or a folder that `save_to_disk` wrote, `FOLDER#SPLIT`.

Sound within the dataset is written to the cache, each clip under the hash of its bytes.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from audio_qa.dataset import DatasetError
from audio_qa.formats.item import Item
from audio_qa.whole_file import whole_file

_PREFIX = "hf:"
_SAVED = ("state.json", "dataset_dict.json")
"""One of these files is in every folder that `save_to_disk` wrote."""


def is_dataset(location: str) -> bool:
    """Return whether a location is a Hugging Face dataset: a name, or a folder."""
    return location.startswith(_PREFIX) or Path(location.partition("#")[0]).is_dir()


def read_rows(location: str, cache: Path | None) -> Iterator[Item]:
    """Yield the rows of a dataset as items, with paths for clips.

    Raises:
        DatasetError: the extra `huggingface` is not installed, or there is no such dataset or split.
    """
    name, _, split = location.partition("#")
    if not name.startswith(_PREFIX) and not any((Path(name) / file).is_file() for file in _SAVED):
        raise DatasetError(
            f"{location!r}: is a folder; name a question file, or a dataset folder that save_to_disk wrote"
        )
    try:
        import datasets  # noqa: PLC0415
    except ImportError as error:
        raise DatasetError(
            f"{location!r}: not a file, and a Hugging Face dataset needs the library `datasets`; name a file, or "
            "install Earshot with the extra 'huggingface'"
        ) from error
    try:
        if name.startswith(_PREFIX):
            found = datasets.load_dataset(name.removeprefix(_PREFIX), split=split or "train")
        else:
            found = datasets.load_from_disk(name)
    # A missing dataset, a missing split and network failures raise unrelated classes.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DatasetError(f"{location!r}: cannot be loaded ({reason}); correct the name or the split") from error
    if isinstance(found, Mapping):
        if not split:
            raise DatasetError(f"{location!r}: has several splits; name one, as in {name + '#' + next(iter(found))!r}")
        if split not in found:
            raise DatasetError(f"{location!r}: has no split {split!r} (it has {', '.join(found)})")
        found = found[split]
    for column, feature in found.features.items():
        if isinstance(feature, datasets.Audio):
            # The bytes of the file, not decoded: `audio_qa.audio` decodes clips.
            found = found.cast_column(column, datasets.Audio(decode=False))
    yield from items_of(found, location, cache)


def items_of(rows: Iterable[Mapping[str, Any]], location: str, cache: Path | None) -> Iterator[Item]:
    """Yield rows as items. A clip as `{"bytes", "path"}` becomes the path of its file, written to the cache if needed.

    Raises DatasetError for bytes without a cache to write them to.
    """
    for number, row in enumerate(rows, start=1):
        record = {
            key: _file_of(value, location, cache)
            if isinstance(value, Mapping) and value.keys() == {"bytes", "path"}
            else value
            for key, value in row.items()
        }
        yield Item(record, f"{location!r}, row {number}")


def _file_of(sound: Mapping[str, Any], location: str, cache: Path | None) -> object:
    data = sound["bytes"]
    if data is None:
        return sound["path"]
    if cache is None:
        raise DatasetError(f"{location!r}: contains its sound itself, and there is no cache directory to write it to")
    suffix = Path(sound["path"] or "").suffix or ".wav"
    target = cache / f"{hashlib.sha256(data).hexdigest()}{suffix}"
    if not target.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        with whole_file(target) as file:
            file.write(data)
    return str(target)
