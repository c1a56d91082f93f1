"""Histories of runs for the API: state, workers, last evaluation, errors, each kept and brought up to date on request.

Invariant: every event is read once; a line that is not an event is counted and hides nothing else.
"""

import threading
from collections import OrderedDict
from pathlib import Path

from orchestrator.run.history import HistoryReader, RunHistory


class RunHistories:
    """Histories of the runs requested last. Thread-safe."""

    def __init__(self, most: int = 2000) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[Path, HistoryReader] = OrderedDict()

    def knows(self, run_dir: Path) -> bool:
        """Return whether the run was requested recently, so that reading on is cheap."""
        return run_dir in self._kept

    def of(self, run_dir: Path) -> RunHistory:
        """Return the history of a run; the empty one if it has no events."""
        with self._lock:
            reader = self._kept.setdefault(run_dir, HistoryReader(run_dir, strict=False))
            self._kept.move_to_end(run_dir)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
            return reader.read()
