"""The progress of a run, from the last line of its metrics: cheap enough for a whole page of jobs."""

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from orchestrator.run.files import METRICS
from orchestrator.run.lines import lines_before, size_of


@dataclass(frozen=True, slots=True)
class LastStep:
    """The last learner step of a run."""

    step: int
    metrics: dict[str, float]
    """Its metrics, without null values."""


class JobProgress:
    """Last steps of the runs requested last; a file is read again when its size has changed. Thread-safe."""

    def __init__(self, most: int = 20_000) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[Path, tuple[int, LastStep | None]] = OrderedDict()

    def last(self, run_dir: Path) -> LastStep | None:
        """Return the step as of the last read, without reading."""
        with self._lock:
            kept = self._kept.get(run_dir / METRICS)
        return None if kept is None else kept[1]

    def of(self, run_dir: Path) -> LastStep | None:
        """Return the last complete step; None before the first."""
        path = run_dir / METRICS
        size = size_of(path)
        with self._lock:
            kept = self._kept.get(path)
        if kept is not None and kept[0] == size:
            return kept[1]
        found = _last(path) if size else None
        with self._lock:
            self._kept[path] = (size, found)
            self._kept.move_to_end(path)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return found


def _last(path: Path) -> LastStep | None:
    for line in lines_before(path, None, 1):
        try:
            record = json.loads(line.text)
            step = int(record.pop("step"))
        except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
            return None
        return LastStep(step, {name: v for name, v in record.items() if type(v) in (int, float)})
    return None
