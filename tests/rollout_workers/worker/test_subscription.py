"""A worker that takes announced weights from shared memory, with the learner's real end of the socket."""

import asyncio
import os
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from learner.weight_sync.announcer import Announcer
from protocol.announcement import PlacedTensor, description, machine
from protocol.weights import Carrier, TensorSlot, WeightUpdate
from rollout_workers.errors import ElsewhereError, WeightsUnavailableError
from rollout_workers.worker import subscription
from rollout_workers.worker.subscription import Subscription

PATIENCE = 5.0


class Learner:
    """Announces one byte as weights."""

    def __init__(self) -> None:
        self.announcer = Announcer()
        self._files: list[int] = []

    async def publish(self, version: int, patience: float = PATIENCE) -> WeightUpdate:
        """Announce in a thread, as a rank does: the worker runs in this one."""
        file = os.memfd_create("weights")
        self._files.append(file)
        text = description([PlacedTensor(TensorSlot("a", "uint8", (1,), 1), 0)])
        os.write(file, bytes([version]) + text)
        number, held = await asyncio.to_thread(
            self.announcer.announce, file, version, (1, len(text)), audio_changed=version % 2 == 1, patience=patience
        )
        return WeightUpdate(
            version, (), True, 1, Carrier.SHARED_MEMORY, machine(), self.announcer.address, number, held
        )

    def close(self) -> None:
        self.announcer.close()
        for file in self._files:
            os.close(file)


class Worker:
    """Takes weights by reading their byte; waits or fails on demand."""

    def __init__(self, name: str = "w") -> None:
        self.subscription = Subscription(name, self._replace)
        self.taken: list[tuple[int, int, bool]] = []
        self.go = asyncio.Event()
        self.go.set()
        self.failure: Exception | None = None

    async def _replace(self, announced, path, placed) -> None:
        await self.go.wait()
        if self.failure is not None:
            raise self.failure
        (one,) = placed
        self.taken.append((announced.version, Path(path).read_bytes()[one.offset], announced.audio_changed))


def together(test):
    """Runs a coroutine with a learner and a worker that has taken version 1."""

    async def run():
        async with beginning() as (learner, worker):
            await test(learner, worker)

    asyncio.run(asyncio.wait_for(run(), 60))


@asynccontextmanager
async def beginning():
    learner, worker = Learner(), Worker()
    try:
        update = await learner.publish(1, patience=0)
        assert update.held_by == frozenset()
        await worker.subscription.take(update)
        assert worker.taken == [(1, 1, True)]
        yield learner, worker
    finally:
        worker.subscription.close()
        learner.close()


def test_later_weights_are_taken_without_a_call():
    async def test(learner, worker):
        for version in range(2, 30):
            update = await learner.publish(version)
            assert update.held_by == {"w"}
            await worker.subscription.take(update)
        assert worker.taken == [(v, v, v % 2 == 1) for v in range(1, 30)], "each once"

    together(test)


def test_take_waits_for_an_update_in_progress():
    async def test(learner, worker):
        worker.go.clear()
        update = await learner.publish(2, patience=0.05)
        assert update.held_by == frozenset()
        asked = asyncio.create_task(worker.subscription.take(update))
        await asyncio.sleep(0.1)
        assert not asked.done()
        worker.go.set()
        await asked
        assert worker.taken[1:] == [(2, 2, False)]

    together(test)


def test_take_raises_a_failure_and_the_update_is_not_held():
    async def test(learner, worker):
        worker.failure = RuntimeError("the engine refuses")
        update = await learner.publish(2)
        assert update.held_by == frozenset(), "known at once, without its deadline"
        with pytest.raises(RuntimeError, match="the engine refuses"):
            await worker.subscription.take(update)
        worker.failure = None
        update = await learner.publish(3)
        assert update.held_by == {"w"}
        await worker.subscription.take(update)

    together(test)


def test_replaced_weights_are_unavailable():
    async def test(learner, worker):
        old = await learner.publish(2, patience=0)
        await learner.publish(3)
        late = Worker("late")
        with pytest.raises(WeightsUnavailableError, match="has version 3 by now, not 2"):
            await late.subscription.take(old)
        assert late.taken == [(3, 3, True)]
        late.subscription.close()

    together(test)


def test_a_learner_of_another_machine_is_not_waited_for():
    async def test():
        far = WeightUpdate(1, (), True, 1, Carrier.SHARED_MEMORY, "another", "earshot-weights", 1)
        with pytest.raises(ElsewhereError, match="version 1 is in the memory of another machine"):
            await Worker().subscription.take(far)
        gone = WeightUpdate(1, (), True, 1, Carrier.SHARED_MEMORY, machine(), "earshot-weights", 1)
        with pytest.raises(WeightsUnavailableError, match="gone") as raised:
            await Worker().subscription.take(gone)
        assert not isinstance(raised.value, ElsewhereError), "another learner may come on this machine"

    asyncio.run(test())


def test_a_dead_learner_ends_the_wait_and_the_next_one_is_followed():
    async def test(learner, worker):
        update = await learner.publish(2)
        missing = replace(update, version=3, announced=update.announced + 1)
        asked = asyncio.create_task(worker.subscription.take(missing))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(learner.announcer.close)
        with pytest.raises(WeightsUnavailableError, match="gone"):
            await asked
        with pytest.raises(WeightsUnavailableError, match="gone"):
            await worker.subscription.take(missing)
        learner.announcer = Announcer()
        again = await learner.publish(2, patience=0)
        assert again.announced == 1, "it counts from the beginning"
        await worker.subscription.take(again)
        assert (await learner.publish(3)).held_by == {"w"}
        assert [version for version, *_ in worker.taken] == [1, 2, 2, 3]

    together(test)


def test_a_dead_learners_announcement_is_taken_before_the_next_learners():
    async def test(learner, worker):
        worker.go.clear()
        await learner.publish(2, patience=0.05)
        await asyncio.to_thread(learner.announcer.close)
        learner.announcer = Announcer()
        again = await learner.publish(1, patience=0)
        asked = asyncio.create_task(worker.subscription.take(again))
        await asyncio.sleep(0.1)
        worker.go.set()
        await asked
        assert [version for version, *_ in worker.taken] == [1, 2, 1], "in order: the last is what it has"

    together(test)


def test_a_silent_learner_has_a_deadline(monkeypatch):
    monkeypatch.setattr(subscription, "FETCH_SECONDS", 0.1)

    async def test(learner, worker):
        update = await learner.publish(2)
        silent = replace(update, version=3, announced=update.announced + 1)
        with pytest.raises(WeightsUnavailableError, match="did not announce version 3 within"):
            await worker.subscription.take(silent)

    together(test)


def test_no_descriptor_is_kept():
    async def test(learner, worker):
        await learner.publish(2)
        before = len(list(Path("/proc/self/fd").iterdir()))
        for version in range(3, 20):
            await learner.publish(version)
        assert len(list(Path("/proc/self/fd").iterdir())) == before + 17, "the learner's own, of this test"

    together(test)


def test_one_machine_has_one_name(monkeypatch):
    assert machine() == machine()
    other = subprocess.run(
        [sys.executable, "-c", "from protocol.announcement import machine; print(machine())"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == machine()

    def hidden(path):
        raise PermissionError(path)

    monkeypatch.setattr(Path, "readlink", hidden)
    assert machine() != machine(), "where it cannot be told, nobody is near"
