"""Pages of a run's scored completions. The id of a sample says which completion it is (`sample_id.py`).

Invariants: a page costs what it holds and one group more; nothing before or after that is read. A list that continues
after its run was rolled back and went on continues at the same completion, or at the place that it would have.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from orchestrator.run.files import SAMPLES
from orchestrator.run.lines import FileLine, PlaceError, check_place, line_at, lines_after, lines_before, size_of
from orchestrator.run.records import RunDirectoryError
from orchestrator.service.telemetry.sample_id import SampleId, group_of, id_of

Order = Literal["newest", "oldest"]
_GROUP = 64
"""Lines read at once when a group is followed to its beginning or end."""
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class SamplePage:
    """One page of samples, each with its `id`."""

    items: list[dict[str, Any]]
    next_after: SampleId | None
    """Sample that the next page comes after; None at the end."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A sample and its line."""

    line: FileLine
    record: dict[str, Any]
    identity: SampleId


class Samples:
    """The samples of one run."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / SAMPLES

    def page(self, after: SampleId | None, limit: int, order: Order = "newest", step: int | None = None) -> SamplePage:
        """Return at most `limit` samples.

        Args:
            after: last sample of the page before; None for the first page.
            step: return only samples of this learner step.

        Raises:
            RunDirectoryError: a line of the page is not a sample.
        """
        for _ in range(_ATTEMPTS):
            try:
                return self._page(after, limit, order, step)
            except PlaceError:
                # The run was rolled back while the page was read.
                continue
        return SamplePage([], None)

    def _page(self, after: SampleId | None, limit: int, order: Order, step: int | None) -> SamplePage:
        if order == "newest":
            end = self._start_of(after) if after else None if step is None else self._first(lambda found: found > step)
            lines = lines_before(self._path, end, limit)
            more = bool(lines) and lines[-1].start > 0
            found = self._identified(reversed(lines))[::-1]
        else:
            start = self._end_of(after) if after else 0 if step is None else self._first(lambda found: found >= step)
            lines = lines_after(self._path, start, limit)
            more = bool(lines) and lines[-1].end < size_of(self._path)
            found = self._identified(lines)
        wanted = found if step is None else [one for one in found if one.identity.step == step]
        more = more and len(wanted) == len(found)
        items = [{"id": str(one.identity)} | one.record for one in wanted]
        return SamplePage(items, wanted[-1].identity if more and wanted else None)

    def one(self, wanted: SampleId) -> dict[str, Any] | None:
        """Return the sample with this id; None if there is none, or another completion is at its place now."""
        for found in self._of_group(wanted):
            if found.identity == wanted:
                return {"id": str(wanted)} | found.record
        return None

    def _start_of(self, wanted: SampleId) -> int:
        """Return the offset of a sample, or of the place that it would have: nothing after it was listed."""
        for found in self._of_group(wanted):
            if found.identity.index == wanted.index:
                return found.line.start
        return self._first(lambda step: step > wanted.step)

    def _end_of(self, wanted: SampleId) -> int:
        """Return the offset after a sample, or after the place that it would have: nothing before it was left out."""
        for found in self._of_group(wanted):
            if found.identity.index == wanted.index:
                return found.line.end
        return self._first(lambda step: step >= wanted.step)

    def _of_group(self, wanted: SampleId) -> list[_Found]:
        """Return all samples of one draw, in order."""
        place, group = self._first(lambda step: step >= wanted.step), list[tuple[FileLine, dict[str, Any]]]()
        while lines := lines_after(self._path, place, _GROUP):
            for line in lines:
                record = self._sample(line)
                if group_of(record) == wanted.group:
                    group.append((line, record))
                elif group or record["step"] > wanted.step:
                    return _numbered(group)
            place = lines[-1].end
        return _numbered(group)

    def _identified(self, lines: Iterable[FileLine]) -> list[_Found]:
        """Return adjacent lines, in file order, with their ids. The first group may have begun before them."""
        read = [(line, self._sample(line)) for line in lines]
        if not read:
            return []
        before = self._before_in_group(read[0][0].start, group_of(read[0][1]))
        return _numbered(read, before)

    def _before_in_group(self, place: int, group: tuple[int, int]) -> int:
        """Return how many lines of a group are directly before `place`."""
        count = 0
        while lines := lines_before(self._path, place, _GROUP):
            for line in lines:
                if group_of(self._sample(line)) != group:
                    return count
                count += 1
            place = lines[-1].start
        return count

    def _first(self, reached: Callable[[int], bool]) -> int:
        """Return the offset of the first line whose step fulfils `reached`, else the end. Bisects: steps ascend."""
        low, high = 0, self._whole()
        while low < high:
            middle = self._begin((low + high) // 2, low)
            line = line_at(self._path, middle)
            if line is None:
                # The run was rolled back meanwhile: the file ends before `middle`.
                high = min(middle, self._whole())
            elif reached(self._sample(line)["step"]):
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
            if not isinstance(record, dict) or type(record.get("step")) is not int:
                raise ValueError("not an object with a step")
        except (ValueError, RecursionError) as error:
            raise RunDirectoryError(self._path, f"byte {line.start}: not a sample ({error})") from error
        return record


def _numbered(read: Iterable[tuple[FileLine, dict[str, Any]]], before: int = 0) -> list[_Found]:
    """Return samples with their ids; `before` is how many of the first group come before them."""
    found, group, index = list[_Found](), None, before
    for line, record in read:
        index = index + 1 if group_of(record) == group else 0 if group is not None else before
        group = group_of(record)
        found.append(_Found(line, record, id_of(record, index)))
    return found
