"""TensorBoard's event files, in `tensorboard/` of the run directory."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from tensorboardX import SummaryWriter

from orchestrator.run.files import TENSORBOARD


class TensorBoard:
    """See Tracker. Each driver writes the files again from the first step, so that they match the run."""

    name = "tensorboard"

    def __init__(self, run_dir: Path) -> None:
        self._folder = run_dir / TENSORBOARD
        shutil.rmtree(self._folder, ignore_errors=True)
        self._writer = self._open(None)
        self._last = -1

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See Tracker."""
        if step <= self._last:
            self._writer.close()
            self._writer = self._open(step)
        self._last = step
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """See Tracker."""
        self._writer.close()

    def _open(self, purge_step: int | None) -> SummaryWriter:
        return SummaryWriter(logdir=str(self._folder), purge_step=purge_step, flush_secs=30)
