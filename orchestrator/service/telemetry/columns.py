"""The metrics of a run as columns in memory: what was read once is not read again, and a million points take a moment.

Invariant: after `refresh` the rows are those of `RunDirectory.metrics` at that moment, steps strictly ascending. A run
that went back to a checkpoint cuts its file and writes it anew: that is found, and the file read again.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from orchestrator.run.metrics import METRIC_NAMES
from orchestrator.run.records import RunDirectoryError

Floats = NDArray[np.float64]

# Read and parsed at once: a longer piece would keep other threads waiting for this one.
_PIECE = 512 * 1024


@dataclass(frozen=True, slots=True)
class MetricSeries:
    """Metrics over steps, N rows of at most as many buckets as were asked for."""

    steps: list[int]
    """The last step of each bucket, N of them ascending."""
    means: dict[str, list[float | None]]
    """N values of each metric, None where a bucket holds none."""
    minima: dict[str, list[float | None]] | None
    """Likewise; None where no bucket holds more than one step, so that they would be the means again."""
    maxima: dict[str, list[float | None]] | None
    names: list[str]
    """Every metric the run has, also those not asked for."""
    last_step: int | None
    """Of the run."""


class UniformRows:
    """Reads steps whose metrics are alike, and all of them numbers: in half the time that others take."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._decoder: msgspec.json.Decoder[Any] | None = None

    def read(self, array: bytes) -> tuple[NDArray[np.int64], dict[str, Floats]] | None:
        """Steps and metrics by name of a JSON array of objects; None where they are not alike."""
        try:
            if self._decoder is None:
                first = from_json(array[: array.index(b"}") + 1] + b"]", allow_inf_nan=False)[0]
                self._names = [name for name in first if name != "step"]
                self._decoder = msgspec.json.Decoder(list[_row_type(self._names)])  # type: ignore[misc]
            rows = self._decoder.decode(array)
        except (ValueError, TypeError, IndexError, msgspec.MsgspecError):
            self._decoder = None
            return None
        steps = np.array([row.step for row in rows], np.int64)
        values = np.array([msgspec.structs.astuple(row) for row in rows], np.float64)
        return steps, {name: values[:, i + 1] for i, name in enumerate(self._names)}


def _row_type(names: Sequence[str]) -> type[msgspec.Struct]:
    fields = [("step", int), *((f"metric_{i}", float) for i in range(len(names)))]
    rename = {f"metric_{i}": name for i, name in enumerate(names)}
    return msgspec.defstruct("Row", fields, rename=rename, forbid_unknown_fields=True, gc=False)


class MetricColumns:
    """The metrics of one run. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._place = 0
        self._last_line = b""
        self._count = 0
        self._steps = np.empty(0, np.int64)
        self._columns: dict[str, Floats] = {}
        self._uniform = UniformRows()

    @property
    def memory(self) -> int:
        """Bytes of the columns."""
        return (1 + len(self._columns)) * self._steps.nbytes

    def query(self, since_step: int | None, names: Sequence[str] | None, points: int) -> MetricSeries:
        """The steps behind `since_step`, as they are or in at most `points` buckets of equally many steps.

        Raises:
            RunDirectoryError: the file holds a line that is no metrics.
        """
        with self._lock:
            self._refresh()
            steps = self._steps[: self._count]
            first = 0 if since_step is None else int(np.searchsorted(steps, since_step, "right"))
            known = self._names()
            chosen = known if names is None else [name for name in known if name in set(names)]
            columns = {name: self._columns[name][first : self._count] for name in chosen}
            return _series(steps[first:], columns, points, known, int(steps[-1]) if self._count else None)

    def _names(self) -> list[str]:
        order = [name for name in METRIC_NAMES if name in self._columns]
        return order + sorted(set(self._columns) - set(METRIC_NAMES))

    def _refresh(self) -> None:
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            self._forget()
            return
        with file:
            if self._last_line:
                file.seek(self._place - len(self._last_line))
                if file.read(len(self._last_line)) != self._last_line:
                    self._forget()
            file.seek(self._place)
            rest = b""
            while piece := file.read(_PIECE):
                end = piece.rfind(b"\n") + 1
                if not end:
                    rest += piece
                    continue
                self._take(rest + piece[:end])
                rest = piece[end:]

    def _take(self, data: bytes) -> None:
        try:
            # No line break stands within a JSON document of one line.
            array = b"[" + data[:-1].replace(b"\n", b",") + b"]"
            table = self._uniform.read(array)
            if table is None:
                records: list[dict[str, Any]] = from_json(array, allow_inf_nan=False)
                table = np.array([record["step"] for record in records], np.int64), _columns(records)
            added, values = table
            if len(added) != data.count(b"\n"):
                raise ValueError("lines are no objects")
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise RunDirectoryError(self._path, f"holds lines that are no metrics ({error})") from error
        self._append(added, values)
        self._place += len(data)
        self._last_line = data[data.rfind(b"\n", 0, -1) + 1 :]

    def _append(self, added: NDArray[np.int64], values: dict[str, Floats]) -> None:
        """Rows of steps that may go back: each takes the place of earlier ones of the same or a later step."""
        later = np.minimum.accumulate(added[::-1])[::-1]
        kept = np.append(added[:-1] < later[1:], True)
        added = added[kept]
        self._count = int(np.searchsorted(self._steps[: self._count], added[0]))
        new = self._count + len(added)
        if new > len(self._steps):
            room = max(1024, 2 * new)
            self._steps = _grown(self._steps, room, 0)
            self._columns = {name: _grown(column, room, np.nan) for name, column in self._columns.items()}
        for name in values.keys() - self._columns.keys():
            self._columns[name] = np.full(len(self._steps), np.nan)
        self._steps[self._count : new] = added
        for name, column in self._columns.items():
            column[self._count : new] = values[name][kept] if name in values else np.nan
        self._count = new


class Metrics:
    """The columns of the runs that were asked for last, within a budget of memory. Safe to use from several threads."""

    def __init__(self, most_bytes: int = 512 * 2**20) -> None:
        self._most = most_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[Path, MetricColumns] = OrderedDict()

    def of(self, run_dir: Path) -> MetricColumns:
        """The columns of a run, empty until they are asked."""
        path = run_dir / "metrics.jsonl"
        with self._lock:
            columns = self._kept.setdefault(path, MetricColumns(path))
            self._kept.move_to_end(path)
            total = sum(kept.memory for kept in self._kept.values())
            while len(self._kept) > 1 and (total > self._most or len(self._kept) > 1000):
                total -= self._kept.popitem(last=False)[1].memory
            return columns


def _grown(column: NDArray[Any], room: int, filler: float) -> NDArray[Any]:
    grown = np.full(room, filler, column.dtype)
    grown[: len(column)] = column
    return grown


def _columns(records: list[dict[str, Any]]) -> dict[str, Floats]:
    """The metrics of some steps by name, without the step."""
    names = list(records[0])
    if all(list(record) == names for record in records):
        # As they are written, all alike: one table, which takes half the time.
        try:
            table = np.array([list(record.values()) for record in records], np.float64)
        except (ValueError, TypeError):
            pass
        else:
            return {name: table[:, i] for i, name in enumerate(names) if name != "step"}
    found = dict.fromkeys(name for record in records for name in record if name != "step")
    return {name: _floats([record.get(name) for record in records]) for name in found}


def _floats(values: list[Any]) -> Floats:
    """None, and what is no number, become NaN."""
    if any(isinstance(value, str) for value in values[:1]):
        values = [value if isinstance(value, int | float) else None for value in values]
    try:
        return np.array(values, np.float64)
    except (ValueError, TypeError):
        return np.array([value if isinstance(value, int | float) else None for value in values], np.float64)


def _series(
    steps: NDArray[np.int64], columns: dict[str, Floats], points: int, known: list[str], last: int | None
) -> MetricSeries:
    if len(steps) <= points:
        means = {name: _plain(column) for name, column in columns.items()}
        return MetricSeries(steps.tolist(), means, None, None, known, last)
    edges = np.linspace(0, len(steps), points + 1).astype(np.int64)
    starts = edges[:-1]
    minima, maxima, means = {}, {}, {}
    for name, column in columns.items():
        held = ~np.isnan(column)
        counts = np.add.reduceat(held, starts, dtype=np.int64)
        sums = np.add.reduceat(np.where(held, column, 0.0), starts)
        means[name] = _plain(np.divide(sums, counts, out=np.full(points, np.nan), where=counts > 0))
        minima[name] = _plain(np.fmin.reduceat(column, starts))
        maxima[name] = _plain(np.fmax.reduceat(column, starts))
    return MetricSeries(steps[edges[1:] - 1].tolist(), means, minima, maxima, known, last)


def _plain(column: Floats) -> list[float | None]:
    return [None if math.isnan(value) else value for value in column.tolist()]
