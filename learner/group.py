"""The group of learner ranks: the controller loop's handle to the learner."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from audio_qa.audio import TooLong
from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from learner.actor import LearnerActor
from learner.errors import BatchTooLargeError, LearnerError, LearnerLostError, LearnerMemoryError
from learner.messages import BatchCounts, NumberedBucket, PhaseSettings, StepStats
from learner.metrics import step_metrics
from learner.settings import LearnerSettings
from protocol.training import Learned, SupervisedExample, TrainingGroup
from protocol.weights import Bucket, Carrier, WeightUpdate

START_SECONDS = 300.0
STOP_SECONDS = 3.0
CPUS_PER_RANK = 1
"""CPUs that a rank reserves on the cluster, beside its GPUs."""
_SECONDS_TO_DIE = 5.0
"""Seconds to wait, after a rank failed, for others to turn out dead: a dead rank is then the cause."""


class LearnerGroup:
    """`settings.ranks` Ray actors that train together. Its methods are coroutines of one event loop.

    `weight_version` counts the optimizer steps since the start of the job, including those of the warm start.
    """

    def __init__(
        self,
        settings: LearnerSettings,
        *,
        too_long: TooLong = "refuse",
        gpus_per_rank: float = 0.0,
        checksums: bool = False,
        places: Sequence[Any] | None = None,
    ) -> None:
        """Create the actors.

        Args:
            checksums: have published weights carry digests, which the engines verify.
            places: Ray's scheduling strategy of each rank; default: wherever there is room.
        """
        self._settings, self._checksums = settings, checksums
        threads = settings.threads or max(1, (os.cpu_count() or 1) // settings.ranks)
        environment = {
            "OMP_NUM_THREADS": str(threads),
            # Waiting threads must not spin: engines and ranks share the cores, and would block one another.
            "OMP_WAIT_POLICY": "PASSIVE",
            "DS_ACCELERATOR": "cuda" if gpus_per_rank else "cpu",
        }
        actor = ray.remote(LearnerActor)
        self._ranks = [
            actor.options(
                num_cpus=CPUS_PER_RANK,
                num_gpus=gpus_per_rank,
                max_restarts=0,
                max_task_retries=0,
                runtime_env={"env_vars": environment},
                **({} if places is None else {"scheduling_strategy": places[rank]}),
            ).remote(rank, settings.ranks, settings, too_long)
            for rank in range(settings.ranks)
        ]
        self.weight_version = 0

    async def start(self) -> None:
        """Connect the ranks with torch.distributed."""
        await self._call("join", *(await self.address()), seconds=START_SECONDS)

    async def check_file_visible(self, file: str) -> None:
        """Raise LearnerError unless every rank can read a file of the run, where it writes its share of checkpoints."""
        hosts = sorted({host for visible, host in await self._call("file_visible", file) if not visible})
        if hosts:
            raise LearnerError(
                f"{file} does not exist on {', '.join(hosts)}, where a learner rank runs: put the run directory on a "
                "disk that all nodes mount at this path, or all ranks on the driver's node"
            )

    async def address(self) -> tuple[str, int]:
        """Return the first rank's host and a port that is currently free there."""
        ((host, port),) = await self._wait([self._ranks[0].call.remote("address")], "address", START_SECONDS)
        return host, port

    async def start_phase(self, folder: str, phase: PhaseSettings, resume: str | None = None) -> None:
        """Start a phase from the checkpoint in `folder`, or resume it from the training state in `resume`."""
        await self._call("start_phase", folder, phase, resume, seconds=START_SECONDS)

    async def prepare(self, prompts: Sequence[tuple[Question, PromptTemplate]]) -> dict[int, str]:
        """Make the ranks read a batch's clips. Return the reason per index of `prompts` that any rank cannot read."""
        unreadable: dict[int, str] = {}
        for reasons in await self._call("prepare", list(prompts)):
            unreadable |= reasons
        return unreadable

    async def learn(self, groups: Sequence[TrainingGroup], counts: BatchCounts) -> Learned:
        """Make the updates of one batch. Without groups only the schedule advances, and the version stays."""
        if not groups:
            await self._call("skip", self._settings.loss.updates_per_batch)
            return Learned(self.weight_version, {})
        return self._learned(await self._call("learn", ray.put(list(groups)), counts))

    async def supervise(self, examples: Sequence[SupervisedExample]) -> Learned:
        """Take one supervised step on the batch. Without examples only the schedule advances."""
        if not examples:
            await self._call("skip", 1)
            return Learned(self.weight_version, {})
        return self._learned(await self._call("supervise", ray.put(list(examples))))

    async def score(self, groups: Sequence[TrainingGroup]) -> list[tuple[float, ...]]:
        """Return the log-probability of every token of every completion."""
        scores: list[tuple[float, ...]] = (await self._call("score", list(groups)))[0]
        return scores

    async def publish(self, carrier: Carrier = Carrier.OBJECT_STORE) -> WeightUpdate:
        """Publish the trained weights in shared memory or the object store, or describe them for another carrier."""
        if carrier is Carrier.SHARED_MEMORY:
            shared: WeightUpdate = (await self._call("publish_shared_memory", self.weight_version, self._checksums))[0]
            return shared
        if carrier is not Carrier.OBJECT_STORE:
            slots, audio = (await self._call("describe", self._checksums))[0]
            nbytes = sum(slot.nbytes for slot in slots)
            return WeightUpdate(self.weight_version, (Bucket(slots, None),), audio, nbytes, carrier)
        put: list[NumberedBucket] = [b for share in await self._call("publish", self._checksums) for b in share]
        buckets = tuple(numbered.bucket for numbered in sorted(put, key=lambda numbered: numbered.number))
        nbytes = sum(slot.nbytes for bucket in buckets for slot in bucket.slots)
        return WeightUpdate(self.weight_version, buckets, any(numbered.audio for numbered in put), nbytes)

    async def meet(self, address: str, port: int, members: int) -> None:
        """Make the first rank join a group of `members` processes, as number 0, for `broadcast`."""
        await self._call("meet", address, port, members)

    async def broadcast(self) -> None:
        """Broadcast the trained weights to the group, from GPU to GPU."""
        await self._call("broadcast")

    async def next_piece(self) -> Mapping[str, Any] | None:
        """Return the next piece of trained weights in the ranks' GPUs, valid until the next call; None at the end."""
        shares: list[Mapping[str, Any]] = [share for share in await self._call("next_piece") if share is not None]
        return {**shares[0], "handles": [h for share in shares for h in share["handles"]]} if shares else None

    async def save(self, folder: str, *, state: bool) -> None:
        """Start to write a checkpoint, with or without the training state, into an existing folder.

        Training can continue meanwhile. The next checkpoint must not be started before `is_saving` returns false.
        """
        await self._call("save", folder, state)

    async def is_saving(self) -> bool:
        """Return whether a checkpoint is still being written. Raises LearnerError if writing failed."""
        return any(await self._call("is_saving"))

    async def wait_saved(self) -> None:
        """Wait until the checkpoint is on disk. Raises LearnerError if writing failed."""
        await self._call("wait_saved")

    async def check_saved(self, folder: str) -> None:
        """Raise LearnerError unless a checkpoint on disk, with training state, is that of the ranks' model."""
        await self._call("check_saved", folder)

    async def stop(self) -> None:
        """Stop the ranks' processes: first by a request to close, then by force."""
        closing = [asyncio.ensure_future(_future(rank.call.remote("close"))) for rank in self._ranks]
        try:
            await asyncio.wait(closing, timeout=STOP_SECONDS)
        finally:
            for rank in self._ranks:
                ray.kill(rank)
            await asyncio.gather(*closing, return_exceptions=True)

    def _learned(self, stats: Sequence[StepStats]) -> Learned:
        self.weight_version += stats[0].updates
        return Learned(self.weight_version, step_metrics(stats))

    async def _call(self, method: str, *arguments: object, seconds: float | None = None) -> list[Any]:
        calls = [rank.call.remote(method, *arguments) for rank in self._ranks]
        return await self._wait(calls, method, seconds or self._settings.timeout_seconds)

    async def _wait(self, calls: Sequence[Any], method: str, seconds: float) -> list[Any]:
        """Return the results of all ranks, or raise the first failure: ranks that wait for a failed one would hang."""
        futures = [asyncio.ensure_future(_future(call)) for call in calls]
        try:
            _, pending = await asyncio.wait(futures, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
            if any(f.done() and f.exception() is not None for f in futures):
                # A rank that loses its connection to a dead one fails as well, and often reports first.
                await asyncio.wait(futures, timeout=_SECONDS_TO_DIE if pending else 0)
                raise _combined([e for f in futures if f.done() and (e := f.exception()) is not None], method)
            if pending:
                raise LearnerLostError(f"{len(pending)} learner ranks did not finish '{method}' within {seconds:.0f} s")
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()


def _combined(errors: Sequence[BaseException], method: str) -> BaseException:
    """Return the one error that describes the failures of several ranks."""
    for error in errors:
        if isinstance(error, RayActorError):
            return LearnerLostError(f"a learner rank died in '{method}': {error}")
    for error in errors:
        if isinstance(error, RayTaskError):
            cause = error.cause
            text = f"a learner rank failed in '{method}': {type(cause).__name__}: {cause}"
            too_large = isinstance(cause, BatchTooLargeError)
            return LearnerMemoryError(text, cause.tokens) if too_large else LearnerError(text)
        if isinstance(error, RayError):
            return LearnerLostError(f"a learner rank was lost in '{method}': {error}")
    return errors[0]


async def _future(call: Any) -> Any:
    return await call
