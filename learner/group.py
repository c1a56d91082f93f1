"""The group of learner ranks: the controller loop's handle to the learner.

Invariant: the ranks have one call at a time, and no call waits longer than its deadline after its turn has come. A call
that was given up and does not end makes the learner lost: nothing waits for it.
"""

import asyncio
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import ray

from audio_qa.audio import TooLong
from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from learner.actor import BESIDE, Call, LearnerActor, end_of, failure_of, result_of
from learner.errors import LearnerError, LearnerLostError
from learner.messages import BatchCounts, NumberedBucket, PhaseSettings, StepStats
from learner.metrics import step_metrics
from learner.settings import LearnerSettings
from protocol.training import Learned, SupervisedExample, TrainingGroup
from protocol.weights import Bucket, Carrier, WeightUpdate

STOP_SECONDS = 3.0
CPUS_PER_RANK = 1
"""CPUs that a rank reserves on the cluster, beside its GPUs."""
_SECONDS_TO_DIE = 5.0
"""Seconds to wait, after a rank failed, for others to turn out dead: a dead rank is then the cause."""
_SECONDS_TO_ABORT = 10.0
"""Seconds that ranks have to leave a transfer that is aborted; then they count as lost."""
_ROUND_TRIP_SECONDS = 1.0
"""Least time to wait for a call that may have ended: its result has to arrive."""
_QUICK_SECONDS = 300.0
"""Deadline of calls that neither compute nor write: only a rank that hangs takes as long."""
_TRANSFERS = ("meet", "broadcast", "next_piece")


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
        actor = ray.remote(concurrency_groups={BESIDE: 1})(LearnerActor)
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
        self._quick_seconds = min(_QUICK_SECONDS, settings.timeout_seconds)
        self._turn = asyncio.Lock()
        """Held by the call that the ranks have."""
        self._running: Call | None = None
        self._given_up: Call | None = None
        """The last call, if its caller does not wait any more and it had not ended."""

    async def start(self) -> None:
        """Connect the ranks with torch.distributed, once all have a process.

        However long the cluster needs for their processes, it does not count as the ranks' time.
        """
        async with self._turn:
            await self._wait(Call("start", [rank.__ray_ready__.remote() for rank in self._ranks], math.inf))
        await self._call("join", *(await self.address()), seconds=self._settings.start_seconds)

    async def check_file_visible(self, file: str) -> None:
        """Raise LearnerError unless every rank can read a file of the run, where it writes its share of checkpoints."""
        answers = await self._call("file_visible", file, seconds=self._quick_seconds)
        hosts = sorted({host for visible, host in answers if not visible})
        if hosts:
            raise LearnerError(
                f"{file} does not exist on {', '.join(hosts)}, where a learner rank runs: put the run directory on a "
                "disk that all nodes mount at this path, or all ranks on the driver's node"
            )

    async def address(self) -> tuple[str, int]:
        """Return the first rank's host and a port that is currently free there."""
        addresses: list[tuple[str, int]] = await self._call("address", seconds=self._settings.start_seconds)
        return addresses[0]

    async def start_phase(self, folder: str, phase: PhaseSettings, resume: str | None = None) -> None:
        """Start a phase from the checkpoint in `folder`, or resume it from the training state in `resume`."""
        await self._call("start_phase", folder, phase, resume, seconds=self._settings.start_seconds)

    async def prepare(self, prompts: Sequence[tuple[Question, PromptTemplate]]) -> dict[int, str]:
        """Make the ranks read a batch's clips. Return the reason per index of `prompts` that any rank cannot read."""
        unreadable: dict[int, str] = {}
        for reasons in await self._call("prepare", list(prompts)):
            unreadable |= reasons
        return unreadable

    async def learn(self, groups: Sequence[TrainingGroup], counts: BatchCounts) -> Learned:
        """Make the updates of one batch. Without groups only the schedule advances, and the version stays."""
        if not groups:
            await self._call("skip", self._settings.loss.updates_per_batch, seconds=self._quick_seconds)
            return Learned(self.weight_version, {})
        return self._learned(await self._call("learn", ray.put(list(groups)), counts))

    async def supervise(self, examples: Sequence[SupervisedExample]) -> Learned:
        """Take one supervised step on the batch. Without examples only the schedule advances."""
        if not examples:
            await self._call("skip", 1, seconds=self._quick_seconds)
            return Learned(self.weight_version, {})
        return self._learned(await self._call("supervise", ray.put(list(examples))))

    async def give_memory_back(self) -> int:
        """Make the ranks return unused GPU memory to the GPUs' other processes. Return their bytes: 0 on CPUs."""
        return sum(await self._call("give_memory_back"))

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

    async def transferred(self) -> int:
        """Return the number of parameters that the first rank has sent in broadcasts so far, during one as well.

        It has no deadline of its own: a rank that is dead or hangs may never answer.
        """
        return await result_of(self._ranks[0].beside.remote("transferred")) or 0

    async def abort_transfer(self) -> None:
        """Make the ranks leave a transfer of weights that does not get on: its call raises, if it is still running.

        Returns within `_SECONDS_TO_ABORT`. If a rank is still in the call then, the learner is lost: the next call
        raises LearnerLostError, instead of waiting for it.
        """
        call = self._running
        if call is None or call.method not in _TRANSFERS:
            return
        requests = [rank.beside.remote("abort_transfer") for rank in self._ranks]
        ends = [asyncio.ensure_future(end_of(one)) for one in (*requests, *call.references)]
        try:
            await asyncio.wait(ends, timeout=_SECONDS_TO_ABORT)
        finally:
            for end in ends:
                end.cancel()
            call.deadline = min(call.deadline, _now())

    async def next_piece(self) -> Mapping[str, Any] | None:
        """Return the next piece of trained weights in the ranks' GPUs, valid until the next call; None at the end."""
        try:
            pieces = await self._call("next_piece")
        except LearnerError:
            # The other ranks hold theirs, and under ZeRO-3 what they gathered for it.
            await self._call("describe", False)
            raise
        shares: list[Mapping[str, Any]] = [share for share in pieces if share is not None]
        return {**shares[0], "handles": [h for share in shares for h in share["handles"]]} if shares else None

    async def save(self, folder: str, *, state: bool) -> None:
        """Start to write a checkpoint, with or without the training state, into an existing folder.

        Training can continue meanwhile. The next checkpoint must not be started before `is_saving` returns false.
        """
        await self._call("save", folder, state)

    async def is_saving(self) -> bool:
        """Return whether a checkpoint is still being written. Raises LearnerError if writing failed."""
        return any(await self._call("is_saving", seconds=self._quick_seconds))

    async def wait_saved(self) -> None:
        """Wait until the checkpoint is on disk. Raises LearnerError if writing failed."""
        await self._call("wait_saved")

    async def check_saved(self, folder: str) -> None:
        """Raise LearnerError unless a checkpoint on disk, with training state, is that of the ranks' model."""
        await self._call("check_saved", folder)

    async def stop(self) -> None:
        """Stop the ranks' processes: first by a request to close, then by force."""
        closing = [asyncio.ensure_future(result_of(rank.call.remote("close"))) for rank in self._ranks]
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
        """Call a method of all ranks once earlier calls have ended; return the results by rank.

        `seconds` is the deadline from then on; default: that of a learner step.
        """
        async with self._turn:
            await self._let_earlier_end()
            deadline = _now() + (self._settings.timeout_seconds if seconds is None else seconds)
            calls = [rank.call.remote(method, *arguments) for rank in self._ranks]
            return await self._wait(Call(method, calls, deadline))

    async def _let_earlier_end(self) -> None:
        """Wait for a call that was given up, until its deadline. Raises LearnerLostError if it does not end."""
        call = self._given_up
        if call is None:
            return
        ends = [asyncio.ensure_future(end_of(one)) for one in call.references]
        try:
            _, pending = await asyncio.wait(ends, timeout=max(_ROUND_TRIP_SECONDS, call.deadline - _now()))
        finally:
            for end in ends:
                end.cancel()
        if pending:
            raise LearnerLostError(f"{len(pending)} learner ranks do not come back from '{call.method}'")
        self._given_up = None

    async def _wait(self, call: Call) -> list[Any]:
        """Return the results of all ranks, or raise the first failure: ranks that wait for a failed one would hang."""
        futures = [asyncio.ensure_future(result_of(one)) for one in call.references]
        began, self._running = _now(), call
        try:
            left = None if call.deadline == math.inf else call.deadline - began
            _, pending = await asyncio.wait(futures, timeout=left, return_when=asyncio.FIRST_EXCEPTION)
            if any(f.done() and f.exception() is not None for f in futures):
                # A rank that loses its connection to a dead one fails as well, and often reports first.
                await asyncio.wait(futures, timeout=_SECONDS_TO_DIE if pending else 0)
                call.deadline = min(call.deadline, _now())
                raise failure_of([e for f in futures if f.done() and (e := f.exception()) is not None], call.method)
            if pending:
                took = f"within {_now() - began:.0f} s"
                raise LearnerLostError(f"{len(pending)} learner ranks did not finish '{call.method}' {took}")
            return [future.result() for future in futures]
        finally:
            self._running = None
            if not all(future.done() for future in futures):
                self._given_up = call
            for future in futures:
                future.cancel()


def _now() -> float:
    return asyncio.get_running_loop().time()
