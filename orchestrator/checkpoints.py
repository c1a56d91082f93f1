"""The checkpoints of a run: begun, made whole, found again, thrown away.

Invariant: `checkpoints/step-N` is a whole checkpoint or not there. One is written to a folder of another name and
renamed when everything is on disk, and older ones go only then; a crash at any moment leaves the one before.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.run_directory import RunDirectory, replace_file

STATE_FOLDER = "training_state"
JOB_FILE = "job.json"
_PARTIAL = ".partial-step-"


class Checkpoints:
    """Of one run. `keep_last` of 0 keeps all; the model behind the warm start is always kept, it is the reference."""

    def __init__(self, run: RunDirectory, *, keep_last: int, keep_best: bool) -> None:
        self._home = run.path / "checkpoints"
        self._keep_last, self._keep_best = keep_last, keep_best

    def begin(self, step: int) -> Path:
        """A folder to write the checkpoint of a step to; what a crash left of an earlier attempt is removed."""
        partial = self._home / f"{_PARTIAL}{step}"
        shutil.rmtree(partial, ignore_errors=True)
        (partial / STATE_FOLDER).mkdir(parents=True)
        return partial

    def commit(self, step: int, job: Mapping[str, Any]) -> Path:
        """Make the checkpoint that was begun, and is on disk now, the one of its step."""
        partial, folder = self._home / f"{_PARTIAL}{step}", self.folder(step)
        replace_file(partial / STATE_FOLDER / JOB_FILE, json.dumps(job, indent=2) + "\n")
        if folder.exists():
            # Of a step that was done, lost and done again.
            shutil.rmtree(folder)
        partial.replace(folder)
        _to_disk(self._home)
        self._prune()
        return folder

    def folder(self, step: int) -> Path:
        """Where the checkpoint of a step is, or would be."""
        return self._home / f"step-{step}"

    def steps(self) -> list[int]:
        """The steps that have a whole checkpoint to go on from, ascending."""
        return sorted(
            int(path.parent.parent.name.removeprefix("step-"))
            for path in self._home.glob(f"step-*/{STATE_FOLDER}/{JOB_FILE}")
        )

    def job(self, step: int) -> dict[str, Any]:
        """The job's state in the checkpoint of a step."""
        value: dict[str, Any] = json.loads((self.folder(step) / STATE_FOLDER / JOB_FILE).read_text())
        return value

    def latest(self) -> int | None:
        """The last step with a whole checkpoint; None where there is none."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """The step whose checkpoint did best on held-out questions, the latest of equals; None where none was asked."""
        rated = [(accuracy, step) for step in self.steps() if (accuracy := self.job(step)["accuracy"]) is not None]
        return max(rated)[1] if rated else None

    def remove_partial(self) -> None:
        """Remove what a crash left of checkpoints that were being written."""
        for path in self._home.glob(f"{_PARTIAL}*"):
            shutil.rmtree(path)

    def _prune(self) -> None:
        if not self._keep_last:
            return
        trained = [step for step in self.steps() if step > 0]
        kept = set(trained[-self._keep_last :])
        if self._keep_best and (best := self.best()) is not None:
            kept.add(best)
        for step in trained:
            if step not in kept:
                shutil.rmtree(self.folder(step))


def _to_disk(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
