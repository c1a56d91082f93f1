"""All learner ranks as one: what the controller holds."""

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
from learner.metrics import step_metrics
from learner.phase import Counts, PlacedBucket, Tally, TrainingPhase
from learner.settings import LearnerSettings
from protocol.training import Learned, SupervisedExample, TrainingGroup
from protocol.weights import Bucket, Carrier, WeightUpdate

START_SECONDS = 300.0
STOP_SECONDS = 3.0
_SECONDS_TO_DIE = 5.0
"""After one rank failed, how long others may take to turn out dead: they are the cause then."""


class LearnerGroup:
    """`settings.ranks` Ray actors that learn together; its methods are coroutines of one event loop.

    `weight_version` counts the optimizer steps since the job began, the warm start's among them.
    """

    def __init__(
        self,
        settings: LearnerSettings,
        *,
        too_long: TooLong = "refuse",
        gpus_per_rank: float = 0.0,
        checksums: bool = False,
    ) -> None:
        """`checksums`: published weights say what their bytes are, and the engines check them."""
        self._settings, self._checksums = settings, checksums
        threads = settings.threads or max(1, (os.cpu_count() or 1) // settings.ranks)
        environment = {
            "OMP_NUM_THREADS": str(threads),
            # Threads that wait must not spin: engines and ranks share the cores, and would wait for one another.
            "OMP_WAIT_POLICY": "PASSIVE",
            "DS_ACCELERATOR": "cuda" if gpus_per_rank else "cpu",
        }
        actor = ray.remote(LearnerActor).options(
            num_cpus=1,
            num_gpus=gpus_per_rank,
            max_restarts=0,
            max_task_retries=0,
            runtime_env={"env_vars": environment},
        )
        self._ranks = [actor.remote(rank, settings.ranks, settings, too_long) for rank in range(settings.ranks)]
        self.weight_version = 0

    async def start(self) -> None:
        """Bring the ranks together."""
        await self._call("join", *(await self.address()), seconds=START_SECONDS)

    async def check_sees(self, file: str) -> None:
        """Raise LearnerError unless every rank sees a file of the run: each writes its share of a checkpoint there."""
        blind = sorted({host for sees, host in await self._call("sees", file) if not sees})
        if blind:
            raise LearnerError(
                f"{file} is not to be seen on {', '.join(blind)}, where a learner rank is: put the run directory on a "
                "disk that all nodes have at this path, or all ranks on the driver's node"
            )

    async def address(self) -> tuple[str, int]:
        """The first rank's host, and a port that is free there now."""
        ((host, port),) = await self._wait([self._ranks[0].call.remote("address")], "address", START_SECONDS)
        return host, port

    async def begin(self, folder: str, phase: TrainingPhase, resume: str | None = None) -> None:
        """Start a phase on the checkpoint in `folder`, or go on with it from the training state in `resume`."""
        await self._call("begin", folder, phase, resume, seconds=START_SECONDS)

    async def prepare(self, asked: Sequence[tuple[Question, PromptTemplate]]) -> dict[int, str]:
        """Have the ranks read a batch's clips; the places in `asked` that any of them cannot read, and why."""
        unreadable: dict[int, str] = {}
        for found in await self._call("prepare", list(asked)):
            unreadable |= found
        return unreadable

    async def learn(self, groups: Sequence[TrainingGroup], counts: Counts) -> Learned:
        """The updates of one whole batch. Without groups nothing but the schedule moves, and the version stays."""
        if not groups:
            await self._call("skip", self._settings.loss.updates_per_batch)
            return Learned(self.weight_version, {})
        return self._learned(await self._call("learn", ray.put(list(groups)), counts))

    async def supervise(self, examples: Sequence[SupervisedExample]) -> Learned:
        """One supervised step on the whole batch. Without examples nothing but the schedule moves."""
        if not examples:
            await self._call("skip", 1)
            return Learned(self.weight_version, {})
        return self._learned(await self._call("supervise", ray.put(list(examples))))

    async def score(self, groups: Sequence[TrainingGroup]) -> list[tuple[float, ...]]:
        """Log-probability of every token of every completion."""
        scores: list[tuple[float, ...]] = (await self._call("score", list(groups)))[0]
        return scores

    async def publish(self, carrier: Carrier = Carrier.OBJECT_STORE) -> WeightUpdate:
        """The trained weights: in shared memory or the object store, or announced for another carrier to take them."""
        if carrier is Carrier.SHARED_MEMORY:
            shared: WeightUpdate = (await self._call("share", self.weight_version, self._checksums))[0]
            return shared
        if carrier is not Carrier.OBJECT_STORE:
            slots, audio = (await self._call("describe", self._checksums))[0]
            nbytes = sum(slot.nbytes for slot in slots)
            return WeightUpdate(self.weight_version, (Bucket(slots, None),), audio, nbytes, carrier)
        put: list[PlacedBucket] = [p for share in await self._call("publish", self._checksums) for p in share]
        buckets = tuple(placed.bucket for placed in sorted(put, key=lambda placed: placed.place))
        nbytes = sum(slot.nbytes for bucket in buckets for slot in bucket.slots)
        return WeightUpdate(self.weight_version, buckets, any(placed.audio for placed in put), nbytes)

    async def meet(self, address: str, port: int, members: int) -> None:
        """Have the first rank join a group of so many members, for `broadcast`, as number 0."""
        await self._call("meet", address, port, members)

    async def broadcast(self) -> None:
        """Send the trained weights to the group, from GPU to GPU."""
        await self._call("broadcast")

    async def next_piece(self) -> Mapping[str, Any] | None:
        """The next lot of trained weights in the ranks' GPUs, good until the next call; None behind the last."""
        shares: list[Mapping[str, Any]] = [share for share in await self._call("next_piece") if share is not None]
        return {**shares[0], "handles": [h for share in shares for h in share["handles"]]} if shares else None

    async def save(self, folder: str, *, state: bool) -> None:
        """Begin to write a checkpoint, with the training state or without, into an existing folder.

        Training can go on; `saving` says when it is whole, and another must not be begun before.
        """
        await self._call("save", folder, state)

    async def saving(self) -> bool:
        """Whether a checkpoint is still being written. Raises LearnerError if it could not be."""
        return any(await self._call("saving"))

    async def saved(self) -> None:
        """Return once the checkpoint that was begun is on disk. Raises LearnerError if it could not be written."""
        await self._call("saved")

    async def stop(self) -> None:
        """End the ranks' processes, politely first."""
        closing = [asyncio.ensure_future(_future(rank.call.remote("close"))) for rank in self._ranks]
        try:
            await asyncio.wait(closing, timeout=STOP_SECONDS)
        finally:
            for rank in self._ranks:
                ray.kill(rank)
            await asyncio.gather(*closing, return_exceptions=True)

    def _learned(self, tallies: Sequence[Tally]) -> Learned:
        self.weight_version += tallies[0].updates
        return Learned(self.weight_version, step_metrics(tallies))

    async def _call(self, method: str, *arguments: object, seconds: float | None = None) -> list[Any]:
        calls = [rank.call.remote(method, *arguments) for rank in self._ranks]
        return await self._wait(calls, method, seconds or self._settings.timeout_seconds)

    async def _wait(self, calls: Sequence[Any], method: str, seconds: float) -> list[Any]:
        """The answers of all ranks, or the first failure in time: the ranks that wait for the failed one would hang."""
        answers = [asyncio.ensure_future(_future(call)) for call in calls]
        try:
            _, pending = await asyncio.wait(answers, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
            if any(a.done() and a.exception() is not None for a in answers):
                # A rank that loses a dead one fails as well, and often is the first to say so.
                await asyncio.wait(answers, timeout=_SECONDS_TO_DIE if pending else 0)
                raise _explain([e for a in answers if a.done() and (e := a.exception()) is not None], method)
            if pending:
                raise LearnerLostError(f"{len(pending)} learner ranks did not finish '{method}' within {seconds:.0f} s")
            return [answer.result() for answer in answers]
        finally:
            for answer in answers:
                answer.cancel()


def _explain(errors: Sequence[BaseException], method: str) -> BaseException:
    """What the failures of some ranks mean together."""
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
