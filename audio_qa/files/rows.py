"""Rows of an Arrow table, from Parquet or from a Hugging Face dataset, as items.

Invariant: a clip whose sound is in the table becomes a file in the cache, named by the hash of its bytes, complete and
written once; the record keeps the clip's name, so that it does not depend on this machine.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from audio_qa.dataset import DatasetError
from audio_qa.formats.item import Item
from audio_qa.whole_file import whole_file

ROWS_AT_ONCE = 16
"""Rows that are in memory with their sound."""
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}")


class Rows:
    """The rows of one table."""

    def __init__(
        self, location: str, metadata: Mapping[bytes, bytes] | None, cache: Path | None, *, keep_sound: bool
    ) -> None:
        """
        Args:
            metadata: that of the table's schema; the library `datasets` notes the names of class labels there.
            cache: folder that sound is written to.
            keep_sound: write the sound; without it, clips are named and not written.
        """
        self._location, self._cache, self._keep_sound = location, cache, keep_sound
        self._labels = _class_labels(metadata or {})
        self._read = 0

    def items(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[Item]:
        """Yield the next rows as items. Raises DatasetError for sound without a cache to write it to."""
        for row in rows:
            self._read += 1
            record: dict[str, object] = {}
            clips: dict[str, str] = {}
            for key, value in row.items():
                only = value[0] if isinstance(value, list) and len(value) == 1 else value
                sound, name = _sound(only)
                if sound is not None:
                    clips[key] = self._clip(sound, name)
                    record[key] = name or Path(clips[key]).name
                elif isinstance(value, list):
                    record[key] = [_sound(element)[1] if _is_audio(element) else element for element in value]
                else:
                    record[key] = name if _is_audio(value) else value
                if key in self._labels:
                    record[key] = _named(record[key], self._labels[key])
            yield Item(record, f"{self._location!r}, row {self._read}", clips=clips, table=True)

    def _clip(self, sound: bytes, name: str | None) -> str:
        suffix = Path(name or "").suffix
        file = hashlib.sha256(sound).hexdigest() + (suffix if _SUFFIX.fullmatch(suffix) else ".wav")
        if not self._keep_sound:
            return file if self._cache is None else str(self._cache / file)
        if self._cache is None:
            raise DatasetError(
                f"{self._location!r}: contains its sound itself, and there is no cache directory to write it to"
            )
        target = self._cache / file
        if not target.is_file():
            self._cache.mkdir(parents=True, exist_ok=True)
            with whole_file(target) as output:
                output.write(sound)
        return str(target)


def _is_audio(value: object) -> bool:
    """Return whether a value is a clip as the library `datasets` stores it."""
    return isinstance(value, Mapping) and value.keys() >= {"bytes", "path"}


def _sound(value: Any) -> tuple[bytes | None, str | None]:
    """Return the sound that a value contains, and the name of its clip; None for what is not there."""
    if isinstance(value, bytes):
        return value, None
    if _is_audio(value):
        return value["bytes"], value["path"]
    return None, None


def _class_labels(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """Return the names of class labels by column: its numbers stand for them, not for choices."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):  # written by other programs
        return {}
    labels: dict[str, list[str]] = {}
    for column, feature in features.items() if isinstance(features, dict) else ():
        inner = feature.get("feature", feature) if isinstance(feature, dict) else {}
        if isinstance(inner, dict) and inner.get("_type") == "ClassLabel":
            labels[column] = inner["names"]
    return labels


def _named(value: object, names: list[str]) -> object:
    """Return the name of a class label, or those of a list; None where there is none."""
    if isinstance(value, list):
        return [_named(element, names) for element in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None
