"""The checkpoints of a run: begun, made whole, found again, thrown away.

Invariant: `checkpoints/step-N` is a whole checkpoint or not there. One is written to a folder of another name and
renamed when everything is on disk, and older ones go only then; a crash at any moment leaves the one before.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.job.spec import JobSpec
from orchestrator.run.directory import RunDirectory
from orchestrator.run.records import replace_file

STATE_FOLDER = "training_state"
JOB_FILE = "job.json"
_PARTIAL = ".partial-step-"
_REMOVED = ".removed-step-"


def kept_steps(accuracies: Mapping[int, float | None], *, keep_last: int, keep_best: bool) -> set[int]:
    """Which of some checkpoints a job's rule keeps.

    Args:
        accuracies: by step, on held-out questions; None where none was asked.
        keep_last: 0 keeps all.
    """
    trained = sorted(step for step in accuracies if step > 0)
    kept = {step for step in accuracies if step == 0} | set(trained[-keep_last:] if keep_last else trained)
    rated = [(accuracy, step) for step, accuracy in accuracies.items() if accuracy is not None]
    return kept | {max(rated)[1]} if keep_best and rated else kept


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
        partial = self._home / f"{_PARTIAL}{step}"
        replace_file(partial / STATE_FOLDER / JOB_FILE, json.dumps(job, indent=2) + "\n")
        folder = self._take_place(step)
        self._prune()
        return folder

    def bring(self, step: int, fill: Callable[[Path], None]) -> Path:
        """Take over a checkpoint from elsewhere: `fill` writes all of it, the job's state too, to a folder."""
        partial = self.begin(step)
        fill(partial)
        for place, _, names in os.walk(partial):
            for name in ("", *names):
                _to_disk(Path(place) / name)
        return self._take_place(step)

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

    def remove(self, step: int) -> None:
        """Throw a checkpoint away. Under its name it has all its files to the last, also when this is killed."""
        removed = self._home / f"{_REMOVED}{step}"
        shutil.rmtree(removed, ignore_errors=True)
        self.folder(step).replace(removed)
        shutil.rmtree(removed)

    def remove_partial(self) -> None:
        """Remove what a crash left of checkpoints that were being written or thrown away."""
        for path in (*self._home.glob(f"{_PARTIAL}*"), *self._home.glob(f"{_REMOVED}*")):
            shutil.rmtree(path)

    def _take_place(self, step: int) -> Path:
        folder = self.folder(step)
        if folder.exists():
            # Of a step that was done, lost and done again.
            self.remove(step)
        (self._home / f"{_PARTIAL}{step}").replace(folder)
        _to_disk(self._home)
        return folder

    def _prune(self) -> None:
        if not self._keep_last:
            return
        accuracies = {step: self.job(step)["accuracy"] for step in self.steps()}
        kept = kept_steps(accuracies, keep_last=self._keep_last, keep_best=self._keep_best)
        for step in accuracies:
            if step not in kept:
                self.remove(step)


def checkpoints_of(run: RunDirectory, spec: JobSpec) -> Checkpoints:
    """A run's checkpoints under its job's rule of which to keep."""
    return Checkpoints(run, keep_last=spec.checkpoint.keep_last, keep_best=spec.checkpoint.keep_best)


def _to_disk(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
