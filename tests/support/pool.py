"""A pool of simulated workers, for tests of the pool's logic."""

import asyncio
from collections import Counter
from collections.abc import Callable

from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from protocol.rollout import Group, RolloutRequest, Sampling, WorkerSettings
from protocol.weights import WeightUpdate
from rollout_workers.limits import RolloutLimits
from rollout_workers.pool.pool import RolloutPool
from rollout_workers.simulated import SimulatedHandle, SimulatedPace

SAMPLING = Sampling(group_size=4, max_tokens=8)
LIMITS = RolloutLimits(silent_seconds=0.4, drain_seconds=0.5, lag_seconds=0.3, attempts=5, max_restarts=1000)


def requests(count: int, first: int = 0) -> list[RolloutRequest]:
    return [
        RolloutRequest(Question("d", i, str(i), "clip.wav", "?", ("a", "b"), "a"), PromptTemplate.ANSWER, seed=i)
        for i in range(first, first + count)
    ]


def weights(version: int) -> WeightUpdate:
    return WeightUpdate(version, (), audio_changed=False, nbytes=0)


class Fleet:
    """A pool of simulated workers, with their handles by name, and the events of the pool."""

    def __init__(self, limits: RolloutLimits = LIMITS, pace: SimulatedPace | None = None, **options) -> None:
        self.handles: dict[str, list[SimulatedHandle]] = {}
        self.events: list[tuple[str, dict]] = []
        self.pace = pace or SimulatedPace()
        self.prepare: Callable[[SimulatedHandle], None] = lambda handle: None
        self.room: asyncio.Event | None = None
        settings = WorkerSettings("model", 64, max_concurrent=32, whole_batches=options.pop("whole_batches", False))
        self.pool = RolloutPool(
            settings,
            limits,
            on_event=lambda kind, **detail: self.events.append((kind, detail)),
            make_worker=self._make,
            **options,
        )

    def _make(self, name: str) -> SimulatedHandle:
        handle = SimulatedHandle(name, self.pace, self.room)
        self.prepare(handle)
        self.handles.setdefault(name, []).append(handle)
        return handle

    def handle(self, name: str) -> SimulatedHandle:
        return self.handles[name][-1]

    def kinds(self) -> Counter:
        return Counter(kind for kind, _ in self.events)

    def detail(self, kind: str) -> dict:
        return next(detail for name, detail in self.events if name == kind)

    def states(self) -> dict[str, str]:
        return {view.name: str(view.state) for view in self.pool.workers()}


def played(scene):
    """Run a coroutine function as a test, and check that it leaves neither worker nor task."""

    def test():
        async def whole():
            async with asyncio.timeout(60):
                fleet = await scene()
                await fleet.pool.stop()
                assert all(handle.killed for made in fleet.handles.values() for handle in made)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                left = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
                assert not left, left

        asyncio.run(whole())

    test.__name__, test.__doc__ = scene.__name__, scene.__doc__
    return test


def check(answers, asked) -> None:
    assert [a.question for a in answers] == [r.question for r in asked]
    assert all(isinstance(a, Group) and len(a.completions) == 4 for a in answers), answers
