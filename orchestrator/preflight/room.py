"""Room for what a job writes: the right to write to its run directory, and disk space for its checkpoints.

The job writes a whole checkpoint before its first step as well (`orchestrator.training.trial`); this module finds what
can be known without the model.
"""

import os
import shutil
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from orchestrator.job.memory.parameters import BYTES, trained_parameters
from orchestrator.job.memory.sizes import Sizes
from orchestrator.job.spec import JobSpec, Method
from orchestrator.job.spec_file import SpecError
from orchestrator.run.checkpoints import checkpoints_of
from orchestrator.run.copies import all_files
from orchestrator.run.directory import RunDirectory
from orchestrator.run.files import JOB
from protocol.checkpoint import CHECKPOINTS_FOLDER

_STATE_BYTES = 12
"""Training state of one trained parameter: its master copy and two moments, in float32."""


@dataclass(frozen=True, slots=True)
class CheckpointRoom:
    """Disk space of a job's checkpoints, in bytes."""

    each: int
    """One checkpoint with its training state."""
    most: int
    """Most checkpoints with training state that exist at one time, with the one that is being written."""
    start: int
    """The model after the warm start, which is always kept and has no training state."""

    @property
    def total(self) -> int:
        return self.most * self.each + self.start


def checkpoint_room(spec: JobSpec, sizes: Sizes, done: tuple[int, ...] = ()) -> CheckpointRoom:
    """Return what the checkpoints of a job need on top of those that exist.

    Args:
        done: steps with a checkpoint, of a run that is resumed.
    """
    weights = sizes.total * BYTES[spec.learner.dtype]
    each = weights + _STATE_BYTES * trained_parameters(spec, sizes)
    if spec.method is Method.EVALUATE:
        return CheckpointRoom(0, 0, 0)
    every, keep = spec.checkpoint.every, spec.checkpoint.keep_last
    first = max(done, default=0)
    left = ceil(spec.steps / every) - first // every if every else int(spec.steps > first)
    existing = sum(step > 0 for step in done)
    # An older one is removed after the new one is written; the best one may be older than those that are kept.
    best = spec.checkpoint.keep_best and spec.data.evaluation is not None
    kept = existing + left if not keep else min(existing + left, keep + best + 1)
    start = weights if spec.warm_start is not None and not done else 0
    return CheckpointRoom(each, max(kept - existing, min(left, 1)), start)


def check_room(spec: JobSpec, sizes: Sizes, run: Path) -> None:
    """Raise SpecError unless a run directory, which need not exist, can be written and its checkpoints fit the disk."""
    problem = _unwritable(run) or _too_small(spec, sizes, run)
    if problem is not None:
        raise SpecError(problem)


def disk_warnings(spec: JobSpec, sizes: Sizes, run: Path) -> list[str]:
    """Return a warning where `check_room` would refuse the job: a plan may be for another machine."""
    return [problem for problem in (_unwritable(run) or _too_small(spec, sizes, run),) if problem is not None]


def _unwritable(run: Path) -> str | None:
    folder = _existing(run)
    if not folder.is_dir():
        return f"{str(run)!r}: {str(folder)!r} is a file; name another run directory with --run-dir"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"{str(run)!r}: nothing can be written in {str(folder)!r}; name another run directory with --run-dir"
    return None


def _too_small(spec: JobSpec, sizes: Sizes, run: Path) -> str | None:
    # The folder may be a link to another disk.
    place = _existing(run / CHECKPOINTS_FOLDER)
    free = shutil.disk_usage(place).free
    done: tuple[int, ...] = ()
    if (run / JOB).is_file():
        checkpoints = checkpoints_of(RunDirectory(run), spec)
        done = tuple(checkpoints.steps())
        # What a crash left is removed before the job continues.
        free += sum(size for folder in checkpoints.leftovers() for _, size in all_files(folder))
    room = checkpoint_room(spec, sizes, done)
    if room.total <= free:
        return None
    count = "1 checkpoint" if room.most == 1 else f"{room.most} checkpoints"
    start = f" and the model after the warm start with {_gib(room.start)}" if room.start else ""
    return (
        f"checkpoint: the job keeps up to {count} of {_gib(room.each)}{start}, {_gib(room.total)} in all, and "
        f"{str(place)!r} has {_gib(free)} free; make room, set checkpoint.keep_last (0 keeps all) lower or "
        "checkpoint.every higher, or name a run directory on a larger disk with --run-dir"
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.{1 if size >= 2**33 else 2}f} GiB"


def _existing(path: Path) -> Path:
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
