"""Hugging Face `datasets`: by name, `hf:OWNER/NAME#SPLIT`, or a folder that `save_to_disk` wrote, `FOLDER#SPLIT`.

Sound that is held in the dataset itself is written to the cache, each clip under the hash of its bytes.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from audio_qa.dataset import DatasetError
from audio_qa.formats.item import Item
from audio_qa.whole_file import whole_file

_PREFIX = "hf:"


def is_dataset(location: str) -> bool:
    """Whether a location is a dataset of Hugging Face's: by name, or a folder."""
    return location.startswith(_PREFIX) or Path(location.partition("#")[0]).is_dir()


def read_rows(location: str, cache: Path | None) -> Iterator[Item]:
    """The rows of a dataset as items, clips as paths.

    Raises:
        DatasetError: the extra `huggingface` is not installed, or there is no such dataset or split.
    """
    try:
        import datasets  # noqa: PLC0415
    except ImportError as error:
        raise DatasetError(
            f"{location!r}: is no file, and a dataset of Hugging Face's needs the library `datasets`; name a file, or "
            "install Earshot with the extra 'huggingface'"
        ) from error
    name, _, split = location.partition("#")
    try:
        if name.startswith(_PREFIX):
            found = datasets.load_dataset(name.removeprefix(_PREFIX), split=split or "train")
        else:
            found = datasets.load_from_disk(name)
    # A missing dataset, a missing split and a network that is down come as different errors.
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
            # As it lies there, not decoded: what a clip is, `audio_qa.audio` decides.
            found = found.cast_column(column, datasets.Audio(decode=False))
    yield from items_of(found, location, cache)


def items_of(rows: Iterable[Mapping[str, Any]], location: str, cache: Path | None) -> Iterator[Item]:
    """Rows as items: a clip held as `{"bytes", "path"}` becomes the path of its file, written to the cache if need be.

    Raises DatasetError where there are bytes and no cache to write them to.
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
        raise DatasetError(f"{location!r}: holds its sound itself, and there is no cache directory to write it to")
    suffix = Path(sound["path"] or "").suffix or ".wav"
    target = cache / f"{hashlib.sha256(data).hexdigest()}{suffix}"
    if not target.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        with whole_file(target) as file:
            file.write(data)
    return str(target)
