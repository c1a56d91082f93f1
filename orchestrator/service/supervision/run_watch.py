"""The files of a run that the supervisor follows as they grow: its events, and the end of its log."""

import os
from pathlib import Path

from orchestrator.run.files import DRIVER_LOG, EVENTS
from orchestrator.run.history import HistoryReader, RunHistory

_TAIL_BYTES = 16_384


class RunWatch:
    """Follows one run directory. Missing files are those of a run that has not written them yet."""

    def __init__(self, run_dir: Path) -> None:
        self._events, self._log = run_dir / EVENTS, run_dir / DRIVER_LOG
        self._history = HistoryReader(run_dir, strict=True)
        self._last = RunHistory()

    def read(self) -> RunHistory:
        """Return the current history. Raises RunDirectoryError while the events are damaged."""
        history = self._history.read()
        # A run directory that was lost stays as it was last seen, until its run is fetched from the storage.
        if self._events.exists():
            self._last = history
        return self._last

    def last_lines(self, count: int = 20) -> str:
        """Return the last lines that the drivers printed; empty if there are none."""
        try:
            with self._log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
                return "\n".join(file.read().decode(errors="replace").splitlines()[-count:])
        except FileNotFoundError:
            return ""
