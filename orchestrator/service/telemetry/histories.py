"""Histories of runs for the API: state, workers, last evaluation, errors, each kept and brought up to date on request.

Invariant: every event is read once; a line that is not an event is counted and hides nothing else. A run whose files
hang delays nobody who reads another run.
"""

import threading
from collections import OrderedDict
from pathlib import Path

from orchestrator.run.history import HistoryReader, RunHistory

_BUSY_SECONDS = 0.5


class RunHistories:
    """Histories of the runs requested last. Thread-safe."""

    def __init__(self, most: int = 2000) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[Path, _Followed] = OrderedDict()

    def last(self, run_dir: Path) -> RunHistory:
        """Return the history as of the last read, without reading."""
        followed = self._kept.get(run_dir)
        return RunHistory() if followed is None else followed.history

    def of(self, run_dir: Path) -> RunHistory:
        """Return the history of a run; the empty one if it has no events.

        Raises:
            TimeoutError: another thread reads the run, and does not get on.
        """
        with self._lock:
            followed = self._kept.setdefault(run_dir, _Followed(run_dir))
            self._kept.move_to_end(run_dir)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        # A file that hangs holds one thread, not one for each caller.
        if not followed.lock.acquire(timeout=_BUSY_SECONDS):
            raise TimeoutError(f"the events of {run_dir.name} are being read")
        try:
            followed.history = followed.reader.read()
            return followed.history
        finally:
            followed.lock.release()


class _Followed:
    """One run."""

    def __init__(self, run_dir: Path) -> None:
        self.lock = threading.Lock()
        self.reader = HistoryReader(run_dir, strict=False)
        self.history = RunHistory()
