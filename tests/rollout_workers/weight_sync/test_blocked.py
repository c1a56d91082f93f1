"""Broadcasts that block: real learner ranks under ZeRO-3 and a real pool go on; NCCL and the engines are stubs.

A stub blocks as NCCL does: the sender in the middle of its weights, or before all members have joined, and each worker
that waits for it. Files say what blocks, because all of them are other processes.
"""

import asyncio
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import ray
import torch

from learner import group
from learner.actor import LearnerActor
from learner.group import LearnerGroup
from learner.messages import PhaseSettings
from learner.settings import LearnerSettings, OptimizerSettings
from protocol.rollout import WorkerSettings
from protocol.weights import Carrier
from rollout_workers.limits import RolloutLimits
from rollout_workers.pool.pool import RolloutPool
from rollout_workers.simulated import SimulatedPace, SimulatedWorker
from rollout_workers.weight_sync import in_step, nccl
from rollout_workers.weight_sync.nccl import NcclSync
from rollout_workers.worker.handle import ActorHandle

STALL_SECONDS = 2.0


class Communicator:
    """vLLM's communicator, as the learner's side uses it."""

    available, disabled, comm, device = True, False, None, torch.device("cpu")

    def __init__(self, home: Path) -> None:
        self.nccl, self._home, self._aborted, self._sent = self, home, threading.Event(), 0

    def broadcast(self, tensor: torch.Tensor, src: int) -> None:
        if self.disabled:
            return
        self._sent += 1
        while self._sent > 3 and (self._home / "broadcast").exists() and not self._aborted.wait(0.05):
            pass
        if self._aborted.is_set() and (self._home / "raises").exists():
            raise RuntimeError("NCCL error")

    def ncclCommAbort(self, comm) -> None:  # noqa: N802 - NCCL's name
        assert self.disabled, "its owner must not use it any more"
        self._aborted.set()

    def destroy(self) -> None:
        self.disabled = True


def replace_nccl(home: Path) -> None:
    """Replace what needs a GPU in vLLM's sender, in this process."""
    from vllm.distributed.weight_transfer import nccl_engine

    def join(info):
        while (home / "meet").exists():
            time.sleep(0.05)
        return Communicator(home)

    def produce(iterator, group, src, post_iter_func, **_):
        for item in iterator:
            group.broadcast(post_iter_func(item), src)

    nccl_engine.open_trainer_endpoint, nccl_engine.packed_nccl_broadcast_producer = join, produce


class Worker(SimulatedWorker):
    """A worker that waits for the learner's bytes."""

    def __init__(self, name: str, home: Path) -> None:
        super().__init__(name, SimulatedPace())
        self._home = home

    async def meet(self, init_info) -> None:
        await self._wait_for("meet")

    async def load(self, piece) -> None:
        await self._wait_for("broadcast")

    async def _wait_for(self, what: str) -> None:
        while (self._home / what).exists():
            await asyncio.sleep(0.05)


@pytest.fixture
def home(cluster, tmp_path, monkeypatch):
    """The folder of the files; ranks that are started get the stub."""

    class Actor(LearnerActor):
        def call(self, method, *arguments):
            if method == "meet":
                replace_nccl(tmp_path)
            return super().call(method, *arguments)

    monkeypatch.setattr(group, "LearnerActor", Actor)
    monkeypatch.setattr(nccl, "MEET_SECONDS", STALL_SECONDS)
    return tmp_path


@pytest.mark.usefixtures("fast_restarts")
def test_the_job_goes_on_after_a_broadcast_that_blocks(home, tiny_folder):
    limits = RolloutLimits(stall_seconds=STALL_SECONDS)
    settings = LearnerSettings(ranks=2, zero_stage=3, threads=1, beta=0)
    pool = RolloutPool(
        WorkerSettings("model", 64, max_concurrent=8),
        limits,
        make_worker=lambda name: ActorHandle(ray.remote(Worker).options(num_cpus=0).remote(name, home)),
    )

    async def scene():
        learner = LearnerGroup(settings)

        async def update(*, blocked: str | None = None, kill: int | None = None):
            """Update the weights; return the report, and the seconds from when the update can only be blocked."""
            if blocked is not None:
                (home / blocked).touch()
            updating = asyncio.ensure_future(pool.update(await learner.publish(Carrier.NCCL)))
            if kill is not None:
                before = await learner.transferred()
                while await learner.transferred() == before:
                    await asyncio.sleep(0.05)
                os.kill(kill, signal.SIGKILL)
            began = time.monotonic()
            report = await updating
            seconds = time.monotonic() - began
            if blocked is not None:
                # Both ranks take part in this: neither is blocked, nor at another place.
                assert (await learner.publish(Carrier.OBJECT_STORE)).nbytes > 0
                (home / blocked).unlink()
                await pool.wait_until_serving(2)
            return report, seconds

        both = ("rollout-0", "rollout-1")
        try:
            await asyncio.gather(learner.start(), pool.start(2))
            await learner.start_phase(str(tiny_folder), PhaseSettings(OptimizerSettings(), 1))
            pool.use_weight_sync(
                NcclSync(learner, ranks_each=1, limits=limits), lambda: learner.publish(Carrier.OBJECT_STORE)
            )
            await pool.wait_until_serving(2)
            assert (await update())[0].updated == both

            # A worker dies in the middle.
            report, seconds = await update(blocked="broadcast", kill=pool.workers()[0].pid)
            assert "died in 'load'" in report.dropped["rollout-0"]
            assert "could not take part in a broadcast: rollout-0 failed" in report.dropped["rollout-1"]
            assert seconds < in_step.GRACE_SECONDS + 10
            assert pool.counts["restarts"] == 1, "the other one is not to blame"

            # Nothing fails, and nothing moves. Here the communicator raises when it is aborted.
            (home / "raises").touch()
            report, seconds = await update(blocked="broadcast")
            assert report.dropped.keys() == set(both)
            assert "nothing was sent for 2 s" in report.dropped["rollout-0"]
            assert seconds < STALL_SECONDS + in_step.GRACE_SECONDS + 10

            # The group cannot be made.
            report, seconds = await update(blocked="meet")
            assert "the group for weights could not be made" in report.dropped["rollout-0"]
            assert seconds < STALL_SECONDS + in_step.GRACE_SECONDS + 10
            assert (await update())[0].updated == both
        finally:
            await asyncio.gather(learner.stop(), pool.stop())

    asyncio.run(scene())


def test_the_deadlines_leave_a_minute():
    """A learner that cannot be freed is found lost by its next call within a minute of its last progress."""
    longest = RolloutLimits().stall_seconds + 2 * in_step.GRACE_SECONDS + group._SECONDS_TO_ABORT
    assert longest + group._ROUND_TRIP_SECONDS < 60
