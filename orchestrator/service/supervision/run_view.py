"""What a run's own files say of it, read again and again as they grow.

Invariant: each line is read once, as long as the file only grows. A missing or unfinished file is a run that has not
got so far; one that is damaged is a RunDirectoryError.
"""

import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator.run.events import LOG
from orchestrator.run.records import RunDirectoryError

_TAIL_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class RunView:
    """A run as its events tell it."""

    submission_id: str | None = None
    """Of the last driver that began."""
    pid: int | None = None
    state: str | None = None
    """The last one that this driver wrote."""
    error: str | None = None
    """What ended it, in one line."""
    saved: frozenset[str] = field(default_factory=frozenset)
    """Ids of commands for checkpoints that have been written since."""
    step: int = 0
    """Of the last checkpoint."""


class RunWatch:
    """Follows one run directory."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / "events.jsonl"
        self._log = run_dir / LOG
        self._offset = 0
        self._asked: set[str] = set()
        self._view = RunView()

    def read(self) -> RunView:
        """As of now. Raises RunDirectoryError."""
        try:
            with self._path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._offset:
                    # The directory was lost, and its run fetched from where it is stored.
                    self._offset, self._view = 0, RunView()
                    self._asked.clear()
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return self._view
        whole = data[: data.rfind(b"\n") + 1]
        for line in whole.splitlines():
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise RunDirectoryError(self._path, f"holds a line that is no event ({error})") from error
        self._offset += len(whole)
        return self._view

    def last_lines(self, count: int = 20) -> str:
        """The end of what the drivers printed; empty if there is nothing."""
        try:
            with self._log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
                return "\n".join(file.read().decode(errors="replace").splitlines()[-count:])
        except FileNotFoundError:
            return ""

    def _take(self, event: dict[str, object]) -> None:
        match event:
            case {"kind": "attempt", "submission_id": str(submission), "pid": int(pid)}:
                self._asked.clear()
                self._view = replace(self._view, submission_id=submission, pid=pid, state=None, error=None)
            case {"kind": "state", "state": str(state)}:
                self._view = replace(self._view, state=state)
            case {"kind": "error", "error": str(error), "message": str(message)}:
                self._view = replace(self._view, error=f"{error}: {message}")
            case {"kind": "command", "command": "checkpoint", "id": str(identifier)}:
                self._asked.add(identifier)
            case {"kind": "checkpoint", "step": int(step)}:
                self._view = replace(self._view, saved=self._view.saved | self._asked, step=step)
                self._asked.clear()
