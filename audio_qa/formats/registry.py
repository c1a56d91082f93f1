"""The formats by name, and the detection of a file's format."""

from collections.abc import Mapping
from typing import Protocol

from audio_qa.dataset import KEYS, DatasetError, nearest
from audio_qa.errors import shown
from audio_qa.formats.air_bench import AirBench
from audio_qa.formats.avqa import Avqa
from audio_qa.formats.item import Draft, Item
from audio_qa.formats.mapped import Columns, Mapped
from audio_qa.formats.mmar import Mmar
from audio_qa.formats.mmau import Mmau
from audio_qa.formats.mmau_pro import MmauPro

AUTO = "auto"
EARSHOT = "earshot"
"""Name of Earshot's own schema, which `audio_qa.dataset` reads."""
MAPPED = "mapped"


class Format(Protocol):
    """The format of a published dataset: turns its items into questions."""

    @property
    def name(self) -> str: ...

    @property
    def keys(self) -> frozenset[str]:
        """Keys that identify an item of this format, with or without its answer."""
        ...

    @property
    def answer_key(self) -> str:
        """Key of an item's answer."""
        ...

    @property
    def missing_audio_refused(self) -> bool:
        """True if a missing clip is an error; otherwise its question is left out and counted."""
        ...

    def parse(self, item: Item) -> Draft:
        """Return the question in an item. Raises ItemError."""
        ...

    def version(self, sha256: str) -> str:
        """Return the benchmark's version by its file's hash; empty if it has only one."""
        ...


_PUBLISHED: tuple[Format, ...] = (Avqa(), Mmau(), Mmar(), MmauPro(), AirBench())
_BY_NAME = {known.name: known for known in _PUBLISHED}
NAMES = (AUTO, EARSHOT, *_BY_NAME, MAPPED)


def may_lack_clips(name: str) -> bool:
    """Return whether the clips of a format may be missing: their questions are left out."""
    return name in _BY_NAME and not _BY_NAME[name].missing_audio_refused


def choose(name: str, columns: Columns | None, first: Mapping[str, object], *, table: bool = False) -> Format | None:
    """Return the format of a name, or for `auto` the one detected from a file's first record; None for Earshot's own.

    A column mapping without a name means `mapped`, and so does a table with other columns than Earshot's own, without
    an id, or with text alone, which does not say what is a number; or clips in `file_name`, as in audio folders of the
    Hub.

    Raises DatasetError for an unknown name.
    """
    if name not in NAMES:
        known = ", ".join(NAMES)
        raise DatasetError(f"format {shown(name)} is not known; the nearest is {nearest(name, NAMES)} (known: {known})")
    if name == MAPPED or (name == AUTO and columns):
        return Mapped(columns or {})
    if columns:
        raise DatasetError(f"format {name!r} has its own columns; leave the mapping out, or name the format {MAPPED!r}")
    if name != AUTO:
        return _BY_NAME.get(name)
    published = next((known for known in _PUBLISHED if known.keys <= first.keys()), None)
    if published is not None:
        return published
    mapped = "audio" not in first and "file_name" in first
    if table:
        own = "id" in first and first.keys() <= set(KEYS)
        mapped = mapped or not own or all(isinstance(value, str) for value in first.values())
    return Mapped({}) if mapped else None
