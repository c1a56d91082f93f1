"""Run a job to its end although learner ranks may be lost: new ranks resume from the last checkpoint.

Invariant: everything after the checkpoint is undone first, in the ledger and in the run directory, so that no question
is lost or trained on twice, and a deterministic job ends with the same parameters as an undisturbed one.
"""

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Any

from learner.errors import LearnerError, LearnerLostError, LearnerMemoryError
from learner.group import CPUS_PER_RANK, START_SECONDS, LearnerGroup
from orchestrator.cluster.reservation import Reservation
from orchestrator.display.progress import Progress
from orchestrator.driver.room import Room
from orchestrator.job.sections.rollout import RolloutSection
from orchestrator.job.spec import Method
from orchestrator.preflight.inputs import TRAIN
from orchestrator.preflight.plan import model_sizes
from orchestrator.preflight.prepare import Prepared
from orchestrator.preflight.room import checkpoint_room
from orchestrator.run.checkpoints import Checkpoints, checkpoints_of
from orchestrator.run.directory import RunDirectory
from orchestrator.run.events import EventKind
from orchestrator.schemas.job_state import JobState
from orchestrator.training.control import Control
from orchestrator.training.loop import Parts, TrainingLoop
from orchestrator.training.reinforce import ReinforceLoop
from orchestrator.training.state import RunState
from orchestrator.training.supervised import SupervisedLoop, warm_start
from orchestrator.training.trial import CheckpointTrial
from protocol.back_off import back_off
from protocol.calls import ScoreGroups
from protocol.weights import Carrier
from rollout_workers.pool.pool import RolloutPool
from rollout_workers.weight_sync.cuda_ipc import CudaIpcSync
from rollout_workers.weight_sync.nccl import NcclSync
from rollout_workers.weight_sync.shared_memory import SharedMemorySync
from rollout_workers.weight_sync.sync import ObjectStoreSync, WeightSync

_FIRST_BACK_OFF_SECONDS = 1.0
_STOP_SECONDS = 10.0
_PART = "learner"


class LearnerSupervisor:
    """A job and its learner, which is started again after each loss."""

    def __init__(
        self,
        prepared: Prepared,
        run_dir: RunDirectory,
        state: RunState,
        progress: Progress,
        pool: RolloutPool,
        score: ScoreGroups | None,
        control: Control,
        room: Room,
    ) -> None:
        """`score` is the reward actor's; a supervised job has none."""
        self._room = room
        self._prepared, self._run_dir, self._state, self._progress = prepared, run_dir, state, progress
        self._pool, self._score, self._control = pool, score, control
        self._spec = prepared.spec
        self._checkpoints = checkpoints_of(run_dir, self._spec)
        disk = checkpoint_room(self._spec, model_sizes(self._spec))
        stored = self._spec.storage is not None
        self._trial = CheckpointTrial(
            run_dir, self._checkpoints, progress, links=stored, later_bytes=disk.each if disk.most else 0
        )
        self._settings = self._spec.learner
        self._restarts = 0
        self._failed_at: list[int] = []
        """For each earlier attempt, the step of the checkpoint it could be resumed from."""
        self._reservation: Reservation
        self.learner = self._new_learner()

    async def run(self, workers: Awaitable[None]) -> None:
        """Run the job to its end.

        Args:
            workers: done once the rollout workers are up.

        Raises:
            LearnerError: the ranks failed in a way that would repeat itself, or more often than the job allows.
        """
        while True:
            try:
                if not await self._room.wait(_PART, self._reservation, START_SECONDS):
                    raise LearnerLostError(
                        f"the cluster had no room for the {self._settings.ranks} learner ranks within "
                        f"{START_SECONDS:.0f} s"
                    )
                await self.learner.start()
                await self._run_attempt(workers)
                return
            except (LearnerLostError, LearnerMemoryError) as error:
                await self._recover(error)

    def remove_trial(self) -> None:
        """Remove what a trial left that was interrupted. The ranks must have ended: they might still write to it."""
        self._checkpoints.remove_trial()

    async def _run_attempt(self, workers: Awaitable[None]) -> None:
        """Run the job from its current state to its end, unless the learner is lost."""
        loop, state, run_dir = self._make_loop(), self._state, self._run_dir
        await self.learner.check_file_visible(str(run_dir.job_file))
        folder = self._prepared.model_folder
        self.learner.weight_version = state.weight_version
        warm = self._spec.warm_start
        if warm is not None:
            # The engines load during the warm start; they get its weights once both are done.
            if self._checkpoints.latest() is None:
                await warm_start(loop, folder, warm)
                await self._save_warm_start()
            folder = str(self._checkpoints.folder(0))
            self._progress.phase("starting workers")
        resume = str(self._checkpoints.folder(state.step)) if state.step else None

        async def workers_ready() -> None:
            await workers
            # A supervised job needs new weights for its evaluations only, which may be at its end: it tries that now.
            tried = self._spec.method is Method.SUPERVISED and bool(self._prepared.held_out)
            if tried or warm is not None or resume is not None or self._restarts:
                await loop.sync_weights()
            run_dir.append_event(EventKind.STATE, state=JobState.RUNNING)

        await loop.run(folder, resume, workers_ready)

    async def _save_warm_start(self) -> None:
        """Save the model after the warm start: reinforcement learning starts from it, and it is the reference model."""
        self._state.weight_version = self.learner.weight_version
        await self.learner.save(str(self._checkpoints.begin(0)), state=False)
        await self.learner.wait_saved()
        path = str(self._checkpoints.commit(0, self._state.to_dict()))
        self._run_dir.append_event(EventKind.CHECKPOINT, step=0, path=path, commands=[])

    async def _recover(self, error: LearnerError) -> None:
        """Return to the last checkpoint and start new ranks. Raises `error` where the job is not to be resumed."""
        if isinstance(error, LearnerMemoryError):
            if self._settings is not self._spec.learner:  # halved before
                raise error
            smaller = max(1, error.tokens // 2)
            self._settings = self._spec.learner.model_copy(update={"micro_batch_tokens": smaller})
            self._run_dir.append_event(EventKind.BATCH_CUT_SMALLER, micro_batch_tokens=smaller)
        self._restarts += 1
        if self._restarts > self._spec.learner.max_restarts:
            raise error
        self._run_dir.append_event(EventKind.STATE, state=JobState.RECOVERING, restart=self._restarts, cause=str(error))
        self._progress.message(f"recovering ({self._restarts} of {self._spec.learner.max_restarts}): {error}")
        # From now on: a node may have been lost, and workers must not take the last room before the new ranks.
        self._room.hold(_PART)
        async with asyncio.timeout(_STOP_SECONDS):
            await self.learner.stop()
        self._reservation.cancel()
        roll_back_to_checkpoint(self._run_dir, self._checkpoints, self._state)
        # Repeated failures after the same checkpoint get more time between attempts.
        delay = back_off(self._failed_at.count(self._state.step), _FIRST_BACK_OFF_SECONDS)
        self._failed_at.append(self._state.step)
        await asyncio.sleep(delay)
        self._run_dir.append_event(EventKind.RESUMED, step=self._state.step, questions=self._state.position)
        self.learner = self._new_learner()

    def _new_learner(self) -> LearnerGroup:
        """Start new ranks, and have the pool take its weights from them."""
        rollout = self._spec.rollout
        gpus = (1 - rollout.gpus if rollout.weight_sync is Carrier.CUDA_IPC else 1) if rollout.gpus else 0
        ranks = self._settings.ranks
        needed = {"CPU": CPUS_PER_RANK} | ({"GPU": gpus} if gpus else {})
        self._reservation = self._room.reserve(_PART, [needed] * ranks)
        learner = LearnerGroup(
            self._settings,
            too_long=self._spec.model.too_long,
            gpus_per_rank=gpus,
            checksums=rollout.weight_checksums,
            places=[self._reservation.place(rank) for rank in range(ranks)],
        )
        self._pool.use_weight_sync(_weight_sync(rollout, learner), lambda: learner.publish(Carrier.OBJECT_STORE))
        return learner

    def _make_loop(self) -> TrainingLoop:
        prepared = self._prepared
        parts = Parts(
            spec=self._spec,
            train=prepared.train,
            held_out=prepared.held_out,
            pool=self._pool,
            learner=self.learner,
            run_dir=self._run_dir,
            checkpoints=self._checkpoints,
            trial=self._trial,
            progress=self._progress,
            state=self._state,
            control=self._control,
            measured=prepared.measured,
        )
        if self._spec.method is Method.SUPERVISED:
            return SupervisedLoop(parts)
        assert self._score is not None
        return ReinforceLoop(parts, self._score)


def _weight_sync(rollout: RolloutSection, learner: LearnerGroup) -> WeightSync:
    """Return the carrier that the job names, for the weights of one learner."""
    seconds = rollout.limits.update_seconds
    match rollout.weight_sync:
        case Carrier.SHARED_MEMORY:
            return SharedMemorySync(learner)
        case Carrier.OBJECT_STORE:
            return ObjectStoreSync()
        case Carrier.NCCL:
            return NcclSync(learner, ranks_each=1, seconds=seconds)
        case Carrier.CUDA_IPC:
            return CudaIpcSync(learner, seconds=seconds)


def roll_back_to_checkpoint(run: RunDirectory, checkpoints: Checkpoints, state: RunState) -> None:
    """Restore state and run directory as of the last checkpoint, or of the job's start."""
    checkpoints.remove_partial()
    step = checkpoints.latest()
    state.restore(None if step is None else checkpoints.job(step))
    if any(_changes_questions(event) and event["step"] >= state.step for event in run.events()):
        # Solve rates are kept by the questions' positions in their file, where others are now.
        state.solve_rates.clear()
    run.roll_back(state.offsets)


def _changes_questions(event: Mapping[str, Any]) -> bool:
    """Return whether an event says that a job continues with other training questions."""
    return event["kind"] == EventKind.INPUTS_CHANGED and any(item["input"] == TRAIN for item in event["inputs"])
