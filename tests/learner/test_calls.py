"""The calls of the learner ranks: one at a time, each within its deadline, and none waits for one that is blocked.

The ranks are real actors without a model.
"""

import asyncio
import os
import signal
import threading
import time

import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group

from learner import group
from learner.actor import LearnerActor
from learner.errors import LearnerError, LearnerLostError
from learner.group import LearnerGroup
from learner.messages import PhaseSettings
from learner.settings import LearnerSettings, OptimizerSettings
from protocol.weights import Carrier

PHASE = PhaseSettings(OptimizerSettings(), 1)


class Rank:
    """Takes the calls of a rank. `blocked` says which ones do not end by themselves."""

    def __init__(self, number: int) -> None:
        self.number, self.calls, self.aborted = number, [], threading.Event()
        self.seconds: dict[str, float] = {}
        self.abortable, self.running, self.failing = True, None, ""

    def address(self):
        return "127.0.0.1", 7000

    def behave(self, rank, method, seconds, abortable=True):
        if rank == self.number:
            self.seconds[method], self.abortable = seconds, abortable

    def fail(self, rank, method):
        self.failing = method if rank == self.number else ""

    def transferred(self):
        return len(self.calls)

    def abort_transfer(self):
        if self.abortable and self.running == "broadcast":
            self.aborted.set()

    def __getattr__(self, method):
        def call(*arguments):
            self.running = method
            self.calls.append(method)
            if method == self.failing:
                raise RuntimeError("no memory")
            if self.aborted.wait(self.seconds.get(method, 0.0)):
                self.aborted.clear()
                raise RuntimeError("aborted")
            self.running = None
            return self.calls

        return call


class Actor(LearnerActor):
    """The learner's actor around such a rank."""

    def call(self, method, *arguments):
        if self._rank is None:
            self._rank = Rank(self._arguments[0])
        if method == "pid":
            return os.getpid()
        return getattr(self._rank, method)(*arguments)


@pytest.fixture
def play(cluster, monkeypatch):
    """Returns a function that runs a coroutine function with a learner of two ranks."""
    monkeypatch.setattr(group, "LearnerActor", Actor)
    monkeypatch.setattr(group, "_SECONDS_TO_ABORT", 1.0)
    monkeypatch.setattr(group, "STOP_SECONDS", 0.3)

    def run(scene, **settings):
        async def whole():
            learner = LearnerGroup(LearnerSettings(ranks=2, **settings))
            try:
                return await scene(learner)
            finally:
                await learner.stop()

        return asyncio.run(whole())

    return run


async def _blocked(learner, method, *, abortable=True):
    """Have a call of the first rank block, and return the task of its caller once it runs."""
    await learner._call("behave", 0, method, 600, abortable)
    before = await learner.transferred()
    task = asyncio.ensure_future(getattr(learner, method)())
    while await learner.transferred() == before:
        await asyncio.sleep(0.05)
    return task


def test_a_blocked_broadcast_ends_when_it_is_aborted_and_the_next_call_is_made(play):
    async def scene(learner):
        await learner.start()
        task = await _blocked(learner, "broadcast")
        await learner.abort_transfer()
        with pytest.raises(LearnerError, match=r"failed in 'broadcast': RuntimeError: aborted") as failure:
            await task
        assert not isinstance(failure.value, LearnerLostError)
        return await learner._call("learn")

    for calls in play(scene):
        assert calls[-2:] == ["broadcast", "learn"]


def test_a_rank_that_does_not_leave_a_broadcast_is_lost_and_nothing_waits_behind_it(play):
    async def scene(learner):
        await learner.start()
        task = await _blocked(learner, "broadcast", abortable=False)
        began = time.monotonic()
        await learner.abort_transfer()
        task.cancel()
        with pytest.raises(LearnerLostError, match="1 learner ranks do not come back from 'broadcast'"):
            await learner.is_saving()
        return time.monotonic() - began

    assert play(scene) < 10


def test_a_call_whose_caller_is_gone_is_waited_for(play):
    """A worker that waits for the weights may be lost meanwhile: the learner is not."""

    async def scene(learner):
        await learner.start()
        await learner._call("behave", 1, "publish", 1.0)
        publishing = asyncio.ensure_future(learner.publish(Carrier.OBJECT_STORE))
        await asyncio.sleep(0.3)
        publishing.cancel()
        return await learner._call("learn")

    assert [calls[-2:] for calls in play(scene)] == [["publish", "learn"]] * 2


def test_the_time_of_a_call_begins_with_its_turn(play):
    async def scene(learner):
        await learner.start()
        await learner._call("behave", 0, "learn", 1.5)
        learning = asyncio.ensure_future(learner._call("learn"))
        await asyncio.sleep(0.1)
        await learner._call("wait_saved", seconds=1.0)
        assert learning.done()

    play(scene)


def test_no_rank_keeps_a_piece_of_an_update_that_failed(play):
    async def scene(learner):
        await learner.start()
        await learner._call("fail", 1, "next_piece")
        with pytest.raises(LearnerError, match="no memory"):
            await learner.next_piece()
        return await learner._call("learn")

    assert [calls[-3:] for calls in play(scene)] == [["next_piece", "describe", "learn"]] * 2


def test_a_dead_rank_is_found_in_the_middle_of_a_broadcast(play):
    async def scene(learner):
        await learner.start()
        pids = await learner._call("pid")
        task = await _blocked(learner, "broadcast")
        os.kill(pids[1], signal.SIGKILL)
        began = time.monotonic()
        await learner.abort_transfer()
        with pytest.raises(LearnerError):
            await task
        with pytest.raises(LearnerLostError, match="died in 'is_saving'"):
            await learner.is_saving()
        return time.monotonic() - began

    assert play(scene) < 20


def test_waiting_for_room_is_not_part_of_a_start(play):
    # All of the CPUs: those that are free now may be fewer, since actors of earlier tests are still ending.
    others = placement_group([{"CPU": 1}] * int(ray.cluster_resources()["CPU"]))
    ray.get(others.ready(), timeout=60)

    async def scene(learner):
        starting = asyncio.ensure_future(learner.start())
        await asyncio.sleep(2.0)
        assert not starting.done()
        remove_placement_group(others)
        await starting

    try:
        play(scene, start_seconds=1.5)
    finally:
        remove_placement_group(others)


def test_a_start_that_takes_too_long_is_a_loss(play):
    async def scene(learner):
        await learner.start()
        await learner._call("behave", 1, "start_phase", 600)
        with pytest.raises(LearnerLostError, match="1 learner ranks did not finish 'start_phase' within 1 s"):
            await learner.start_phase("folder", PHASE)

    play(scene, start_seconds=1.0)
