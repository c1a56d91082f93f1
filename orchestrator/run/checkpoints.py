"""The checkpoints of a run: create, commit, find and remove them.

Invariant: `checkpoints/step-N` is a complete checkpoint or does not exist. It is written to a folder of another name
and renamed when everything is on disk, and older ones are removed only then: a crash at any moment leaves the last one.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from audio_qa.whole_file import to_disk
from orchestrator.job.spec import JobSpec
from orchestrator.run.directory import RunDirectory
from orchestrator.run.records import replace_file
from protocol.checkpoint import CHECKPOINTS_FOLDER, JOB_FILE, STATE_FOLDER, step_folder, step_of

_PARTIAL = ".partial-step-"
_REMOVED = ".removed-step-"
_TRIAL = ".trial"


def kept_steps(accuracies: Mapping[int, float | None], *, keep_last: int, keep_best: bool) -> set[int]:
    """Return the steps whose checkpoints a job's rule keeps.

    Args:
        accuracies: accuracy on held-out questions by step; None where there was no evaluation.
        keep_last: number of the latest checkpoints to keep; 0 keeps all.
    """
    trained = sorted(step for step in accuracies if step > 0)
    kept = {step for step in accuracies if step == 0} | set(trained[-keep_last:] if keep_last else trained)
    rated = [(accuracy, step) for step, accuracy in accuracies.items() if accuracy is not None]
    return kept | {max(rated)[1]} if keep_best and rated else kept


class Checkpoints:
    """The checkpoints of one run. That of step 0, the model after the warm start, is always kept: the reference."""

    def __init__(self, run: RunDirectory, *, keep_last: int, keep_best: bool) -> None:
        self._home = run.path / CHECKPOINTS_FOLDER
        self._keep_last, self._keep_best = keep_last, keep_best

    def begin(self, step: int) -> Path:
        """Return an empty folder to write the checkpoint of a step to. Leftovers of a crashed attempt are removed."""
        partial = self._home / f"{_PARTIAL}{step}"
        shutil.rmtree(partial, ignore_errors=True)
        (partial / STATE_FOLDER).mkdir(parents=True)
        return partial

    def commit(self, step: int, job: Mapping[str, Any]) -> Path:
        """Make the folder from `begin`, which is on disk now, the checkpoint of its step."""
        partial = self._home / f"{_PARTIAL}{step}"
        replace_file(partial / STATE_FOLDER / JOB_FILE, json.dumps(job, indent=2) + "\n")
        folder = self._take_place(step)
        self._prune()
        return folder

    def add(self, step: int, fill: Callable[[Path], None]) -> Path:
        """Add a checkpoint from elsewhere: `fill` writes all of it, including the job's state, to a folder."""
        partial = self.begin(step)
        fill(partial)
        for place, _, names in os.walk(partial):
            for name in ("", *names):
                to_disk(Path(place) / name)
        return self._take_place(step)

    def folder(self, step: int) -> Path:
        """Return the folder of a step's checkpoint; it need not exist."""
        return self._home / step_folder(step)

    def steps(self) -> list[int]:
        """Return the steps with a complete checkpoint to resume from, ascending."""
        states = self._home.glob(f"*/{STATE_FOLDER}/{JOB_FILE}")
        return sorted(step for state in states if (step := step_of(state.parent.parent.name)) is not None)

    def job(self, step: int) -> dict[str, Any]:
        """Return the job's state in the checkpoint of a step."""
        value: dict[str, Any] = json.loads((self.folder(step) / STATE_FOLDER / JOB_FILE).read_text())
        return value

    def latest(self) -> int | None:
        """Return the last step with a complete checkpoint; None if there is none."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """Return the step with the best held-out accuracy, the latest of equals; None without evaluations."""
        rated = [(accuracy, step) for step in self.steps() if (accuracy := self.job(step)["accuracy"]) is not None]
        return max(rated)[1] if rated else None

    def remove(self, step: int) -> None:
        """Remove a checkpoint. Under its name it stays complete until it is gone, also if this process is killed."""
        removed = self._home / f"{_REMOVED}{step}"
        shutil.rmtree(removed, ignore_errors=True)
        self.folder(step).replace(removed)
        shutil.rmtree(removed)

    def remove_partial(self) -> None:
        """Remove leftovers of checkpoints that were being written, tried or removed during a crash."""
        for path in self.leftovers():
            shutil.rmtree(path)

    def leftovers(self) -> list[Path]:
        """Return the folders that `remove_partial` removes."""
        return [path for name in (_PARTIAL, _REMOVED, _TRIAL) for path in self._home.glob(f"{name}*")]

    def begin_trial(self) -> Path:
        """Return an empty folder for a checkpoint that is tried only: it has no step, and is never one of the run's."""
        self.remove_trial()
        folder = self._home / _TRIAL
        (folder / STATE_FOLDER).mkdir(parents=True)
        return folder

    def finish_trial(self, job: Mapping[str, Any], *, links: bool) -> int:
        """Treat the folder from `begin_trial` as `commit` does, and remove it; return its size in bytes.

        Raises OSError where a checkpoint could not be committed.

        Args:
            links: try a hard link as well, which the copy to a storage makes.
        """
        folder, other = self._home / _TRIAL, self._home / f"{_TRIAL}-renamed"
        replace_file(folder / STATE_FOLDER / JOB_FILE, json.dumps(job, indent=2) + "\n")
        if links:
            os.link(folder / STATE_FOLDER / JOB_FILE, folder / "link")
        folder.replace(other)
        to_disk(self._home)
        size = sum(path.stat().st_size for path in other.rglob("*") if path.is_file())
        shutil.rmtree(other)
        return size

    def remove_trial(self) -> None:
        """Remove what a trial left, if anything."""
        for path in self._home.glob(f"{_TRIAL}*"):
            shutil.rmtree(path, ignore_errors=True)

    @property
    def home(self) -> Path:
        """The folder of all checkpoints; it need not exist."""
        return self._home

    def _take_place(self, step: int) -> Path:
        folder = self.folder(step)
        if folder.exists():
            # The step was done, lost and done again.
            self.remove(step)
        (self._home / f"{_PARTIAL}{step}").replace(folder)
        to_disk(self._home)
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
    """Return a run's checkpoints, kept by its job's rule."""
    return Checkpoints(run, keep_last=spec.checkpoint.keep_last, keep_best=spec.checkpoint.keep_best)
