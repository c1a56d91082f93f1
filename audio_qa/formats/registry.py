"""The formats by name, and the detection of a file's format."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Protocol

from audio_qa.dataset import DatasetError
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
        """Keys that identify an item of this format."""
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


def choose(name: str, columns: Columns | None, first: Mapping[str, object]) -> Format | None:
    """Return the format of a name, or for `auto` the one detected from a file's first record; None for Earshot's own.

    A column mapping without a name means `mapped`. Raises DatasetError for an unknown name.
    """
    if name not in NAMES:
        near = get_close_matches(name, NAMES, n=1, cutoff=0.0)[0]
        raise DatasetError(f"format {name!r} is not known; the nearest is {near!r} (known: {', '.join(NAMES)})")
    if name == MAPPED or (name == AUTO and columns):
        return Mapped(columns or {})
    if columns:
        raise DatasetError(f"format {name!r} has its own columns; leave the mapping out, or name the format {MAPPED!r}")
    if name == AUTO:
        return next((known for known in _PUBLISHED if known.keys <= first.keys()), None)
    return _BY_NAME.get(name)
