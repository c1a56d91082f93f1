"""Run a job to its end although learner ranks may be lost: new ranks resume from the last checkpoint.

Invariant: everything after the checkpoint is undone first, in the ledger and in the run directory, so that no question
is lost or trained on twice, and a deterministic job ends with the same parameters as an undisturbed one.
"""

import asyncio
from collections.abc import Awaitable, Coroutine, Mapping
from typing import Any

from learner.errors import LearnerError, LearnerLostError, LearnerMemoryError
from learner.group import LearnerGroup
from orchestrator.cluster.placement import learner_bundles
from orchestrator.cluster.reservation import Reservation, ReservationState
from orchestrator.display.progress import Progress
from orchestrator.driver.room import Room
from orchestrator.job.demand import gpus_per_rank, ranks_of, shares_gpus
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
from protocol.weights import Carrier, WeightUpdate
from rollout_workers.pool.pool import RolloutPool
from rollout_workers.weight_sync.cuda_ipc import CudaIpcSync
from rollout_workers.weight_sync.nccl import NcclSync
from rollout_workers.weight_sync.shared_memory import SharedMemorySync
from rollout_workers.weight_sync.sync import ObjectStoreSync, WeightSync

_FIRST_BACK_OFF_SECONDS = 1.0
_STOP_SECONDS = 10.0
_NODES_SECONDS = 300.0
"""Seconds within which a cluster has to have the resources of the ranks, used or not: nodes may still join."""
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
        self._reservation = self._reserve()
        self._found_lost: asyncio.Future[LearnerLostError]
        """Done once a worker that needed weights has found the current ranks lost."""
        self.learner: LearnerGroup | None = None
        """None until the first ranks have their room."""

    async def run(self, workers: Awaitable[None]) -> None:
        """Run the job to its end.

        Args:
            workers: done once the rollout workers are up.

        Raises:
            LearnerError: the ranks failed in a way that would repeat itself, or more often than the job allows.
        """
        while True:
            try:
                await self._wait_for_room()
                # At once: workers are requested after the ranks.
                self.learner = self._new_learner()
                nodes = await self._reservation.nodes()
                self._run_dir.append_event(EventKind.LEARNER_PLACED, nodes=nodes[: ranks_of(self._spec)])
                if shares_gpus(self._spec):
                    # An engine that starts measures the free memory: before the ranks have any, or not beside them.
                    await workers
                    await self._pool.memory.sleep()
                await self.learner.start()
                await self._run_attempt(workers)
                return
            except (LearnerLostError, LearnerMemoryError) as error:
                await self._recover(error)

    def remove_trial(self) -> None:
        """Remove what a trial left that was interrupted. The ranks must have ended: they might still write to it."""
        self._checkpoints.remove_trial()

    async def _wait_for_room(self) -> None:
        """Wait for the ranks' room as long as others use it. Raises LearnerLostError if no nodes have as much."""
        if not await self._room.wait(_PART, self._reservation, _NODES_SECONDS, while_others_use_it=True):
            raise LearnerLostError(
                f"the cluster has no room for the learner after {_NODES_SECONDS:.0f} s: it needs "
                f"{self._reservation.needs}, and the nodes do not have as much"
            )

    async def _run_attempt(self, workers: Awaitable[None]) -> None:
        """Run the job from its current state to its end, unless the learner is lost."""
        loop, state, run_dir = self._make_loop(), self._state, self._run_dir
        learner = self._ranks
        await learner.check_file_visible(str(run_dir.job_file))
        folder = self._prepared.model_folder
        learner.weight_version = state.weight_version
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

        await self._while_not_lost(loop.run(folder, resume, workers_ready))

    async def _while_not_lost(self, run: Coroutine[Any, Any, None]) -> None:
        """Run the loop; raise LearnerLostError once a worker that needed weights has found the ranks lost."""
        running = asyncio.ensure_future(run)
        ends: list[asyncio.Future[Any]] = [running, self._found_lost]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                raise self._found_lost.result()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        await running

    async def _save_warm_start(self) -> None:
        """Save the model after the warm start: reinforcement learning starts from it, and it is the reference model."""
        learner = self._ranks
        self._state.weight_version = learner.weight_version
        await learner.save(str(self._checkpoints.begin(0)), state=False)
        await learner.wait_saved()
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
        if self.learner is not None:
            async with asyncio.timeout(_STOP_SECONDS):
                await self.learner.stop()
        # Workers in the learner's room keep their engines, unless a node is gone.
        kept = self._reservation.bundles.workers and await self._reservation.state() is ReservationState.GRANTED
        if not kept:
            self._room.give_back(self._reservation)
        roll_back_to_checkpoint(self._run_dir, self._checkpoints, self._state)
        # Repeated failures after the same checkpoint get more time between attempts.
        delay = back_off(self._failed_at.count(self._state.step), _FIRST_BACK_OFF_SECONDS)
        self._failed_at.append(self._state.step)
        await asyncio.sleep(delay)
        self._run_dir.append_event(EventKind.RESUMED, step=self._state.step, questions=self._state.position)
        if not kept:
            self._reservation = self._reserve()

    def _reserve(self) -> Reservation:
        """Request room for the ranks, before anything else that waits for room."""
        return self._room.reserve(_PART, learner_bundles(self._spec))

    @property
    def _ranks(self) -> LearnerGroup:
        if self.learner is None:
            raise RuntimeError("the learner has no ranks yet")
        return self.learner

    def _new_learner(self) -> LearnerGroup:
        """Start ranks in the room that they have, and have the pool take its weights from them."""
        rollout = self._spec.rollout
        # Of these ranks only: a call of earlier ones may fail later than these start.
        found_lost = self._found_lost = asyncio.get_running_loop().create_future()
        learner = LearnerGroup(
            self._settings,
            too_long=self._spec.model.too_long,
            gpus_per_rank=gpus_per_rank(self._spec),
            checksums=rollout.weight_checksums,
            places=[self._reservation.place(rank) for rank in range(self._settings.ranks)],
        )

        async def republish() -> WeightUpdate:
            try:
                update = await learner.publish(Carrier.OBJECT_STORE)
                if shares_gpus(self._spec):
                    await learner.give_memory_back()
            except LearnerLostError as error:
                # The loop may wait for this very worker, and would not call the ranks before it answers.
                if not found_lost.done():
                    found_lost.set_result(error)
                raise
            return update

        self._pool.use_weight_sync(_weight_sync(rollout, learner), republish)
        return learner

    def _make_loop(self) -> TrainingLoop:
        prepared = self._prepared
        parts = Parts(
            spec=self._spec,
            train=prepared.train,
            held_out=prepared.held_out,
            pool=self._pool,
            learner=self._ranks,
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
    match rollout.weight_sync:
        case Carrier.SHARED_MEMORY:
            return SharedMemorySync(learner)
        case Carrier.OBJECT_STORE:
            return ObjectStoreSync()
        case Carrier.NCCL:
            return NcclSync(learner, ranks_each=rollout.tensor_parallel, limits=rollout.limits)
        case Carrier.CUDA_IPC:
            return CudaIpcSync(learner, limits=rollout.limits)


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
