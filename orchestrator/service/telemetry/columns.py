"""The metrics of a run as columns in memory: every line is parsed once, so that a million points are served quickly.

Invariant: a query sees the rows of `RunDirectory.metrics` at that moment, steps strictly ascending. A run that rolls
back to a checkpoint truncates its file and appends again: that is detected, and the file is read from its beginning.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.run.files import METRICS
from orchestrator.run.lines import LineReader
from orchestrator.run.metrics import METRIC_NAMES
from orchestrator.run.records import RunDirectoryError
from orchestrator.service.telemetry.metric_rows import Floats, MetricRows


@dataclass(frozen=True, slots=True)
class MetricSeries:
    """Metrics over steps: N rows, at most as many as the buckets requested."""

    steps: list[int]
    """Last step of each of the N buckets, ascending."""
    means: dict[str, list[float | None]]
    """N values of each metric, None where a bucket has none."""
    minima: dict[str, list[float | None]] | None
    """N smallest values of each metric; None if every bucket is a single step, where they equal the means."""
    maxima: dict[str, list[float | None]] | None
    """N largest values of each metric; None as for `minima`."""
    names: list[str]
    """All metrics of the run, also those not requested."""
    last_step: int | None
    """Last step of the run."""


class MetricColumns:
    """The metrics of one run. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._reader = LineReader(path, on_restart=self._clear)
        self._clear()

    def _clear(self) -> None:
        self._count = 0
        self._steps = np.empty(0, np.int64)
        self._columns: dict[str, Floats] = {}
        self._rows = MetricRows()

    @property
    def memory(self) -> int:
        """Size of the columns in bytes."""
        return (1 + len(self._columns)) * self._steps.nbytes

    def query(self, since_step: int | None, names: Sequence[str] | None, points: int) -> MetricSeries:
        """Return the steps after `since_step`, one by one or in `points` buckets of equally many steps.

        Raises:
            RunDirectoryError: the file has a line that is not metrics.
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
        for block in self._reader.blocks():
            try:
                steps, values = self._rows.parse(block)
            except (ValueError, OverflowError, RecursionError) as error:
                raise RunDirectoryError(self._reader.path, f"has lines that are not metrics ({error})") from error
            self._append(steps, values)

    def _append(self, added: NDArray[np.int64], values: dict[str, Floats]) -> None:
        """Add rows. Steps may go back: each replaces earlier ones of the same or a later step."""
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
    """The columns of the runs requested last, within a memory budget. Thread-safe."""

    def __init__(self, most_bytes: int = 512 * 2**20) -> None:
        self._most = most_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[Path, MetricColumns] = OrderedDict()

    def of(self, run_dir: Path) -> MetricColumns:
        """Return the columns of a run, which read its file when queried."""
        path = run_dir / METRICS
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
