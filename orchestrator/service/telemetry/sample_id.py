"""Ids of samples: which completion of which draw of which learner step, with a check of its text.

Invariant: an id leads to the completion that it was given to, or to nothing. A run that rolls back to a checkpoint
writes its steps again: a completion with another text at the same place has another id, one with the same text has the
same.
"""

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from audio_qa.errors import shown
from orchestrator.run.lines import PlaceError

PATTERN = r"^([0-9]{1,18}|[0-9]{1,18}-[0-9]{1,18}-[0-9]{1,6}-[0-9a-f]{8})$"
"""Ids, and the numbers that earlier versions gave instead; those lead to nothing."""
_ID = re.compile(r"([0-9]{1,18})-([0-9]{1,18})-([0-9]{1,6})-([0-9a-f]{8})")


@dataclass(frozen=True, slots=True)
class SampleId:
    """The place of a completion in its run."""

    step: int
    draw: int
    index: int
    """Which of the completions of its draw, from 0."""
    check: str
    """Checksum of the completion's text."""

    def __str__(self) -> str:
        return f"{self.step}-{self.draw}-{self.index}-{self.check}"

    @property
    def group(self) -> tuple[int, int]:
        """Step and draw."""
        return self.step, self.draw


def parse_sample_id(text: str) -> SampleId | None:
    """Return the id; None if it is not one, as the numbers that earlier versions gave."""
    found = _ID.fullmatch(text)
    return None if found is None else SampleId(int(found[1]), int(found[2]), int(found[3]), found[4])


def cursor_of(text: str) -> SampleId:
    """Return the id in a cursor. Raises PlaceError."""
    found = parse_sample_id(text)
    if found is None:
        raise PlaceError(f"{shown(text)} is not a cursor of a list of samples; start over")
    return found


def id_of(record: Mapping[str, Any], index: int) -> SampleId:
    """Return the id of a line of `samples.jsonl` that is the completion number `index` of its draw."""
    return SampleId(*group_of(record), index, f"{zlib.crc32(str(record.get('text')).encode(errors='replace')):08x}")


def group_of(record: Mapping[str, Any]) -> tuple[int, int]:
    """Return step and draw of a line of `samples.jsonl`; 0 for a draw that is not a number."""
    draw = record.get("draw")
    return record["step"], draw if isinstance(draw, int) and draw >= 0 else 0
