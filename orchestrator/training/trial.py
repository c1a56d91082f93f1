"""Try a checkpoint before the first step: what a job needs at its end is missed at its beginning, or not at all.

Invariant: no step is taken, of a warm start either, before the ranks have written a whole checkpoint into the run's own
folder once, and read it again. The trial is not a checkpoint, and is removed however it ends.
"""

import asyncio
import errno
import shutil
import time
from collections.abc import Mapping
from typing import Any

from audio_qa.errors import one_line
from learner.errors import CheckpointTrialError, LearnerError, LearnerLostError, LearnerMemoryError
from learner.group import LearnerGroup
from orchestrator.display.progress import Phase, Progress
from orchestrator.run.checkpoints import Checkpoints
from orchestrator.run.directory import RunDirectory
from orchestrator.run.events import EventKind

_LONGEST_CAUSE = 600


class CheckpointTrial:
    """The trial of one process: a run that is resumed elsewhere is tried there again."""

    def __init__(
        self, run: RunDirectory, checkpoints: Checkpoints, progress: Progress, *, links: bool, later_bytes: int = 0
    ) -> None:
        """
        Args:
            links: the run is copied to a storage, for which a checkpoint's files get hard links.
            later_bytes: size of a later checkpoint, which has the optimizer's moments as well.
        """
        self._run, self._checkpoints, self._progress, self._links = run, checkpoints, progress, links
        self._later_bytes = later_bytes
        self._done = False

    async def run(self, learner: LearnerGroup, job: Mapping[str, Any]) -> None:
        """Write a checkpoint of the model as loaded, check it and remove it; does nothing after the first success.

        Args:
            job: the job's state, which a checkpoint has as well.

        Raises:
            CheckpointTrialError: one line with the cause, and the room that is left.
            LearnerLostError, LearnerMemoryError: new ranks may succeed.
        """
        if self._done:
            return
        self._progress.phase(Phase.TRYING_CHECKPOINT)
        began = time.monotonic()
        try:
            folder = str(self._checkpoints.begin_trial())
            await learner.save(folder, state=True)
            await learner.wait_saved()
            await learner.check_saved(folder)
            size = await asyncio.to_thread(self._checkpoints.finish_trial, job, links=self._links)
            if shutil.disk_usage(self._checkpoints.home).free < self._later_bytes:
                needed = f"{self._later_bytes / 2**30:.2f} GiB are needed once the optimizer has taken a step"
                raise OSError(errno.ENOSPC, needed)
        except (LearnerLostError, LearnerMemoryError):
            raise
        except (LearnerError, OSError) as error:
            raise CheckpointTrialError(self._message(error)) from error
        finally:
            self._checkpoints.remove_trial()
        self._done = True
        seconds = round(time.monotonic() - began, 3)
        self._run.append_event(EventKind.CHECKPOINT_TRIED, bytes=size, seconds=seconds)
        self._progress.phase(Phase.STARTING_WORKERS)

    def _message(self, error: Exception) -> str:
        home = self._checkpoints.home
        free = shutil.disk_usage(home if home.is_dir() else self._run.path).free
        cause = one_line(str(error), _LONGEST_CAUSE)
        return (
            f"{str(home)!r}: no checkpoint can be written here, so no step was taken: {cause}; {free / 2**30:.2f} GiB "
            "are free: make room or grant the right to write, or correct the file that is named, and start again"
        )
