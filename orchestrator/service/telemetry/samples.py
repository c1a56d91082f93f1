"""Pages of a run's scored completions. The id of a sample is the offset of its line.

Invariant: a page costs what it holds; nothing before or after it is read.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from orchestrator.run.files import SAMPLES
from orchestrator.run.lines import FileLine, PlaceError, check_place, line_at, lines_after, lines_before, size_of
from orchestrator.run.records import RunDirectoryError

Order = Literal["newest", "oldest"]


@dataclass(frozen=True, slots=True)
class SamplePage:
    """One page of samples, each with its `id`."""

    items: list[dict[str, Any]]
    next_place: int | None
    """Offset of the next page; None at the end."""


class Samples:
    """The samples of one run."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / SAMPLES

    def page(self, place: int | None, limit: int, order: Order = "newest", step: int | None = None) -> SamplePage:
        """Return at most `limit` samples from `place` on.

        Args:
            place: None for the end ("newest") or the beginning ("oldest").
            step: return only samples of this learner step.

        Raises:
            PlaceError: no sample begins at `place`.
            RunDirectoryError: a line of the page is not a sample.
        """
        if order == "newest":
            end = place if place is not None or step is None else self._first(lambda found: found > step)
            lines = lines_before(self._path, end, limit)
            more = bool(lines) and lines[-1].start > 0
            next_place = lines[-1].start if lines else 0
        else:
            start = place if place is not None else 0 if step is None else self._first(lambda found: found >= step)
            lines = lines_after(self._path, start, limit)
            more = bool(lines) and lines[-1].end < size_of(self._path)
            next_place = lines[-1].end if lines else 0
        items = [self._sample(line) for line in lines]
        if step is not None:
            wanted = [item for item in items if item["step"] == step]
            more = more and len(wanted) == len(items)
            items = wanted
        return SamplePage(items, next_place if more else None)

    def one(self, place: int) -> dict[str, Any] | None:
        """Return the sample that begins at `place`; None if none does."""
        try:
            line = line_at(self._path, place)
        except PlaceError:
            return None
        return None if line is None else self._sample(line)

    def _first(self, reached: Callable[[int], bool]) -> int:
        """Return the offset of the first line whose step fulfils `reached`, else the end. Bisects: steps ascend."""
        low, high = 0, self._whole()
        while low < high:
            middle = self._begin((low + high) // 2, low)
            line = line_at(self._path, middle)
            assert line is not None
            if reached(self._sample(line)["step"]):
                high = middle
            else:
                low = line.end
        return low

    def _begin(self, byte: int, low: int) -> int:
        """Return the offset of the line that contains a byte; it is not before `low`."""
        while byte > low:
            try:
                check_place(self._path, byte)
            except PlaceError:
                byte = self._line_break_before(byte, low)
            else:
                break
        return byte

    def _line_break_before(self, byte: int, low: int) -> int:
        start = max(low, byte - 65536)
        with self._path.open("rb") as file:
            file.seek(start)
            found = file.read(byte - start).rfind(b"\n")
        return start + found + 1 if found >= 0 else start

    def _whole(self) -> int:
        """Return the size of all complete lines in bytes."""
        last = lines_before(self._path, None, 1)
        return last[0].end if last else 0

    def _sample(self, line: FileLine) -> dict[str, Any]:
        try:
            record = json.loads(line.text)
            if not isinstance(record, dict) or not isinstance(record.get("step"), int):
                raise ValueError("not an object with a step")
        except (ValueError, RecursionError) as error:
            raise RunDirectoryError(self._path, f"byte {line.start}: not a sample ({error})") from error
        return {"id": str(line.start)} | record
