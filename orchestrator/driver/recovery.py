"""Takes a job to its end over the deaths of learner ranks: new ranks go on from the last checkpoint.

Invariant: what was done behind the checkpoint is undone first, in the ledger and in the run directory, so that no
question is lost or trained twice, and a deterministic job ends with the parameters of one that nothing happened to.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any

from learner.errors import LearnerError, LearnerLostError, LearnerMemoryError
from learner.group import LearnerGroup
from orchestrator.display.progress import Progress
from orchestrator.driver.carriers import PresentLearner, weight_sync
from orchestrator.job.spec import Method
from orchestrator.preflight.prepare import Prepared
from orchestrator.run.checkpoints import Checkpoints, checkpoints_of
from orchestrator.run.directory import RunDirectory
from orchestrator.training.autoscale import Autoscaler
from orchestrator.training.control import Control
from orchestrator.training.loop import Loop
from orchestrator.training.reinforce import ReinforceLoop
from orchestrator.training.rollouts import Scorer
from orchestrator.training.state import RunState
from orchestrator.training.supervised import SupervisedLoop, warm_start
from protocol.weights import Carrier
from rollout_workers.pool.pool import RolloutPool

_FIRST_BACK_OFF_SECONDS = 1.0
_LONGEST_BACK_OFF_SECONDS = 60.0
_STOP_SECONDS = 10.0


class LearnerSupervisor:
    """A job and its learner, as often as the learner has to be started."""

    def __init__(
        self,
        prepared: Prepared,
        run: RunDirectory,
        state: RunState,
        progress: Progress,
        pool: RolloutPool,
        score: Scorer | None,
        control: Control,
    ) -> None:
        self._prepared, self._run, self._state, self._progress = prepared, run, state, progress
        self._pool, self._score, self._control = pool, score, control
        self._spec = prepared.spec
        self._checkpoints = checkpoints_of(run, self._spec)
        self._settings = self._spec.learner
        self._restarts = 0
        self._failed_at: list[int] = []
        """The steps that earlier attempts had a checkpoint of when they failed."""
        self.learner = self._new_learner()
        present = PresentLearner(lambda: self.learner)
        pool.carry_with(weight_sync(self._spec.rollout, present), lambda: present.publish(Carrier.OBJECT_STORE))

    async def go(self, workers: Awaitable[None]) -> None:
        """Run to the end of the job.

        Args:
            workers: done once the rollout workers are up.

        Raises:
            LearnerError: the ranks failed in a way that would only repeat itself, or more often than the job allows.
        """
        while True:
            try:
                await self.learner.start()
                await self._attempt(workers)
                return
            except (LearnerLostError, LearnerMemoryError) as error:
                await self._recover(error)

    async def _attempt(self, workers: Awaitable[None]) -> None:
        """From wherever the job is to its end, unless the learner is lost."""
        loop, state, run = self._loop(), self._state, self._run
        await self.learner.check_sees(str(run.job_file))
        folder = self._prepared.model_folder
        self.learner.weight_version = state.weight_version
        warm = self._spec.warm_start
        if warm is not None:
            # The engines load while the learner warms up; they get its weights once both are done.
            if self._checkpoints.latest() is None:
                await warm_start(loop, folder, warm)
                await self._save_start()
            folder = str(self._checkpoints.folder(0))
            self._progress.phase("starting workers")
        resume = str(self._checkpoints.folder(state.step)) if state.step else None

        async def ready() -> None:
            await workers
            if warm is not None or resume is not None or self._restarts:
                await loop.sync()
            run.append_event("state", state="running")

        await loop.go(folder, resume, ready)

    async def _save_start(self) -> None:
        """Keep the model behind the warm start: what the reinforcement learning starts from, and its reference."""
        self._state.weight_version = self.learner.weight_version
        await self.learner.save(str(self._checkpoints.begin(0)), state=False)
        await self.learner.saved()
        self._run.append_event("checkpoint", step=0, path=str(self._checkpoints.commit(0, self._state.to_dict())))

    async def _recover(self, error: LearnerError) -> None:
        """Undo what the last checkpoint does not hold, and start new ranks. Raises `error` if it must not."""
        if isinstance(error, LearnerMemoryError):
            if self._settings is not self._spec.learner:  # cut smaller before
                raise error
            smaller = max(1, error.tokens // 2)
            self._settings = self._spec.learner.model_copy(update={"micro_batch_tokens": smaller})
            self._run.append_event("batch_cut_smaller", micro_batch_tokens=smaller)
        self._restarts += 1
        if self._restarts > self._spec.learner.max_restarts:
            raise error
        self._run.append_event("state", state="recovering", restart=self._restarts, cause=str(error))
        self._progress.message(f"recovering ({self._restarts} of {self._spec.learner.max_restarts}): {error}")
        async with asyncio.timeout(_STOP_SECONDS):
            await self.learner.stop()
        go_back(self._run, self._checkpoints, self._state)
        # What fails again and again at one place is given more time between attempts.
        back_off = _FIRST_BACK_OFF_SECONDS * 2 ** self._failed_at.count(self._state.step)
        self._failed_at.append(self._state.step)
        await asyncio.sleep(min(_LONGEST_BACK_OFF_SECONDS, back_off))
        self._run.append_event("resumed", step=self._state.step, questions=self._state.position)
        self.learner = self._new_learner()

    def _new_learner(self) -> LearnerGroup:
        rollout = self._spec.rollout
        gpus = (1 - rollout.gpus if rollout.weight_sync is Carrier.CUDA_IPC else 1) if rollout.gpus else 0
        return LearnerGroup(
            self._settings,
            too_long=self._spec.model.too_long,
            gpus_per_rank=gpus,
            checksums=rollout.weight_checksums,
        )

    def _loop(self) -> Loop:
        prepared = self._prepared
        parts: dict[str, Any] = {
            "spec": self._spec,
            "train": prepared.train,
            "held_out": prepared.held_out,
            "pool": self._pool,
            "learner": self.learner,
            "run": self._run,
            "checkpoints": self._checkpoints,
            "progress": self._progress,
            "state": self._state,
            "control": self._control,
        }
        if self._spec.method is Method.SUPERVISED:
            return SupervisedLoop(**parts)
        assert self._score is not None
        section = self._spec.rollout.autoscale
        scaler = None if section is None else Autoscaler(section.min, section.max)
        return ReinforceLoop(**parts, score=self._score, autoscaler=scaler, measured=prepared.measured)


def go_back(run: RunDirectory, checkpoints: Checkpoints, state: RunState) -> None:
    """Make state and run directory what they were at the last checkpoint, or at the job's beginning."""
    checkpoints.remove_partial()
    step = checkpoints.latest()
    state.restore(None if step is None else checkpoints.job(step))
    run.roll_back(state.offsets)
