"""The carriers between GPUs do not wait long for what fails or hangs; no GPU needed."""

import asyncio
import time
from dataclasses import replace

import pytest
from support.carriers import UPDATE, Learner, Worker, distribute

from protocol.weights import Carrier
from rollout_workers.errors import UpdateInterruptedError, WorkerLostError
from rollout_workers.limits import RolloutLimits
from rollout_workers.weight_sync import in_step
from rollout_workers.weight_sync.cuda_ipc import CudaIpcSync
from rollout_workers.weight_sync.nccl import NcclSync

LIMITS = RolloutLimits(update_seconds=600, stall_seconds=0.4, lag_seconds=0.2)
IN_GPU = replace(UPDATE, carrier=Carrier.CUDA_IPC)


class SlowLearner(Learner):
    """A learner whose calls take their time, and that is blocked until it is aborted if it is told so."""

    def __init__(self, *, blocked: str | None = None, sends_for: float = 0.0) -> None:
        super().__init__()
        self.blocked, self.sends_for, self.sent = blocked, sends_for, 0
        self.aborted = asyncio.Event()

    async def _take_part(self, call):
        if call == self.blocked:
            await self.aborted.wait()
            raise RuntimeError(f"{call} was aborted")

    async def broadcast(self):
        self.calls.append(("broadcast",))
        until = time.monotonic() + self.sends_for
        while time.monotonic() < until:
            await asyncio.sleep(0.05)
            self.sent += 1
        await self._take_part("broadcast")

    async def meet(self, address, port, members):
        await super().meet(address, port, members)
        await self._take_part("meet")

    async def next_piece(self):
        await self._take_part("next_piece")
        return await super().next_piece()

    async def transferred(self):
        return self.sent

    async def abort_transfer(self):
        self.aborted.set()
        await super().abort_transfer()


@pytest.fixture(autouse=True)
def no_grace(monkeypatch):
    monkeypatch.setattr(in_step, "GRACE_SECONDS", 0.1)


@pytest.fixture
def workers():
    return {"w0": Worker(), "w1": Worker(), "w2": Worker()}


def timed(sync, workers, update=UPDATE):
    began = time.monotonic()
    outcomes = distribute(sync, workers, update)
    assert time.monotonic() - began < 5
    return outcomes


@pytest.mark.parametrize("part", ["begin", "finish"])
def test_a_worker_that_hangs_in_a_part_holds_the_others_up_for_a_while_only(workers, part):
    workers["w1"].trouble[part] = None
    outcomes = timed(NcclSync(Learner(), ranks_each=1, limits=LIMITS), workers)
    assert isinstance(outcomes.pop("w1"), WorkerLostError)
    assert outcomes == {"w0": 5, "w2": 5}


def test_the_first_failure_ends_a_broadcast_for_all(workers):
    learner = SlowLearner(blocked="broadcast")
    workers["w1"].trouble["load"] = WorkerLostError("died in 'load'")
    workers["w2"].trouble["load"] = None
    sync = NcclSync(learner, ranks_each=1, limits=LIMITS.model_copy(update={"stall_seconds": 600}))
    outcomes = timed(sync, workers)
    assert ("abort",) in learner.calls
    assert type(outcomes["w1"]) is WorkerLostError
    assert isinstance(outcomes["w2"], UpdateInterruptedError)
    assert "w1 failed" in str(outcomes["w2"])
    assert outcomes["w0"] == 5, "it had received everything"
    learner.blocked = None
    assert distribute(sync, {"w0": workers["w0"]}) == {"w0": 5}
    assert [call[0] for call in learner.calls] == ["meet", "broadcast", "abort", "meet", "broadcast"]


def test_a_learner_that_fails_is_named(workers, monkeypatch):
    learner = Learner()

    async def fail():
        raise RuntimeError("no memory")

    monkeypatch.setattr(learner, "broadcast", fail)
    for worker in workers.values():
        worker.trouble["load"] = None
    outcomes = timed(NcclSync(learner, ranks_each=1, limits=LIMITS), workers)
    assert {str(outcome) for outcome in outcomes.values()} == {"could not take part in a broadcast: the learner failed"}

    monkeypatch.setattr(learner, "address", fail)
    outcomes = timed(NcclSync(learner, ranks_each=1, limits=LIMITS), workers)
    assert all(type(outcome) is WorkerLostError for outcome in outcomes.values())
    assert {str(outcome) for outcome in outcomes.values()} == {"could not find an address: no memory"}


def test_a_broadcast_without_progress_is_given_up(workers):
    learner = SlowLearner(blocked="broadcast", sends_for=0.5)
    for worker in workers.values():
        worker.trouble["load"] = None
    outcomes = timed(NcclSync(learner, ranks_each=1, limits=LIMITS), workers)
    assert [type(outcome) for outcome in outcomes.values()].count(WorkerLostError) == 1, "a stall uses up one restart"
    assert [type(outcome) for outcome in outcomes.values()].count(UpdateInterruptedError) == 2
    assert all("nothing was sent for 0 s" in str(outcome) for outcome in outcomes.values())


def test_a_broadcast_that_gets_on_may_take_long(workers):
    learner = SlowLearner(sends_for=1.5)
    assert timed(NcclSync(learner, ranks_each=1, limits=LIMITS), workers) == {"w0": 5, "w1": 5, "w2": 5}
    assert ("abort",) not in learner.calls


def test_a_member_that_does_not_come_ends_the_meeting(workers):
    learner = SlowLearner(blocked="meet")
    workers["w0"].trouble["meet"] = None
    workers["w1"].trouble["meet"] = WorkerLostError("died in 'meet'")
    outcomes = timed(NcclSync(learner, ranks_each=1, limits=LIMITS), workers)
    assert [isinstance(outcomes[name], UpdateInterruptedError) for name in workers] == [True, False, True]
    assert all("w1 could not meet: died in 'meet'" in str(outcome) for outcome in outcomes.values())


def test_a_piece_that_a_worker_does_not_load_holds_the_others_up_for_a_while_only(workers):
    learner = SlowLearner()
    learner.pieces = [{"names": ["a"]}, {"names": ["b"]}]
    for name in ("w0", "w1", "w2"):
        workers[name].trouble["load"] = None
    outcomes = timed(CudaIpcSync(learner, limits=LIMITS), {"w0": workers["w0"]}, IN_GPU)
    assert "could not load a piece within 0 s" in str(outcomes["w0"])
    learner.pieces = [{"names": ["a"]}, {"names": ["b"]}]
    del workers["w2"].trouble["load"]
    outcomes = timed(CudaIpcSync(learner, limits=LIMITS), {name: workers[name] for name in ("w1", "w2")}, IN_GPU)
    assert isinstance(outcomes["w1"], WorkerLostError)
    assert outcomes["w2"] == 5


def test_a_learner_that_does_not_pack_a_piece_is_freed(workers):
    learner = SlowLearner(blocked="next_piece")
    outcomes = timed(CudaIpcSync(learner, limits=LIMITS), workers, IN_GPU)
    assert learner.calls == [("abort",)]
    assert all("could not pack weights" in str(outcome) for outcome in outcomes.values())
