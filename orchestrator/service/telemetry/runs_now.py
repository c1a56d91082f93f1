"""The current state of runs: history and last step of many runs at once, for lists of jobs and for Prometheus.

Invariant: a run whose files hang or fail is shown as it was last known, and says so; the other runs are current.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.run.history import RunHistory
from orchestrator.service.telemetry.histories import RunHistories
from orchestrator.service.telemetry.progress import JobProgress, LastStep
from orchestrator.service.telemetry.sweep import Sweep


@dataclass(frozen=True, slots=True)
class RunNow:
    """The current state of one run."""

    history: RunHistory
    last: LastStep | None
    """Last complete step; None before the first."""
    current: bool
    """False if the files could not be read: the rest is what was last known."""


NOT_STARTED = RunNow(RunHistory(), None, current=True)


class RunsNow:
    """For use on one event loop."""

    def __init__(self, histories: RunHistories, progress: JobProgress, patience: float = 1.0) -> None:
        self._histories, self._progress = histories, progress
        self._sweep: Sweep[Path, RunNow] = Sweep(self._read, patience=patience)

    async def of(self, run_dirs: Iterable[Path]) -> dict[Path, RunNow]:
        """Return where each of the runs stands."""
        wanted = tuple(run_dirs)
        found = await self._sweep.of(wanted) if wanted else {}
        return {run_dir: found.get(run_dir) or self._last_known(run_dir) for run_dir in wanted}

    def _read(self, run_dir: Path) -> RunNow:
        return RunNow(self._histories.of(run_dir), self._progress.of(run_dir), current=True)

    def _last_known(self, run_dir: Path) -> RunNow:
        return RunNow(self._histories.last(run_dir), self._progress.last(run_dir), current=False)
