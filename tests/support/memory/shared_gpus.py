"""GPUs that simulated engines and a simulated learner share: taking more than there is fails, and is remembered."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from learner.errors import LearnerLostError
from protocol.rollout import WorkerStatus
from protocol.training import Learned
from protocol.weights import Carrier, WeightUpdate
from rollout_workers.errors import WorkerFailedError
from rollout_workers.simulated import SimulatedHandle, SimulatedPace

TOTAL, ENGINE, ASLEEP = 100, 60, 5
"""GPU, awake engine and sleeping engine."""
CONTEXT, RESIDENT, PEAK, SENDING = 2, 30, 90, 38
"""Learner: connected; between calls; in a step; while it publishes weights."""
SECONDS_TO_FREE = 0.01
"""Time until the memory of a process that was killed is free."""


class Gpu:
    """One GPU. What breaks its rules is appended to `violations`."""

    def __init__(self, violations: list[str]) -> None:
        self._held: dict[str, int] = {}
        self._violations = violations
        self._measuring: set[str] = set()

    @property
    def free(self) -> int:
        return TOTAL - sum(self._held.values())

    def hold(self, owner: str, amount: int, what: str) -> bool:
        """Have `amount` instead of what the owner has; return whether there is as much."""
        if others := self._measuring - {owner}:
            self._violations.append(f"{owner} changes memory in {what!r} while {others} measures it")
        if amount - self._held.get(owner, 0) > self.free:
            self._violations.append(f"{owner} is out of memory in {what!r}: {self._held}, {amount} wanted")
            return False
        self._held[owner] = amount
        return True

    def measure(self, owner: str, on: bool) -> None:
        (self._measuring.add if on else self._measuring.discard)(owner)

    def die(self, owner: str) -> None:
        self._measuring.discard(owner)
        self._held.pop(owner, None)


class Faults:
    """Counts the calls to engines and learner, and calls what is to happen at some of them."""

    def __init__(self, at: dict[int, Callable[[], None]], seed: int) -> None:
        self._at, self._calls, self._random = at, 0, random.Random(seed)

    async def call(self) -> None:
        self._calls += 1
        if self._calls in self._at:
            self._at[self._calls]()
        await asyncio.sleep(self._random.random() * 0.002)


class Engine(SimulatedHandle):
    """An engine as vLLM runs it: it measures the free memory at its start."""

    def __init__(self, name: str, gpu: Gpu, number: int, faults: Faults, violations: list[str]) -> None:
        super().__init__(name, SimulatedPace(group_seconds=0.002))
        self._owner, self._gpu, self._faults, self._violations = f"{name}#{number}", gpu, faults, violations
        self._asleep = False

    async def start(self) -> WorkerStatus:
        self._gpu.measure(self._owner, True)
        try:
            if self._gpu.free < ENGINE:
                self._violations.append(f"{self._owner} found {self._gpu.free} free at its start")
                raise WorkerFailedError("less free memory than it needs")
            await self._faults.call()
            self._check()
            self._take(ENGINE, "start")
            await self._faults.call()
            return await super().start()
        finally:
            self._gpu.measure(self._owner, False)

    async def generate(self, *arguments: Any) -> Any:
        await self._awake("generate")
        return await super().generate(*arguments)

    async def update(self, update: WeightUpdate) -> int:
        await self._awake("update")
        return await super().update(update)

    async def begin_update(self) -> None:
        await self._awake("begin_update")
        await super().begin_update()

    async def sleep(self) -> int:
        await self._awake("sleep")
        self._take(ASLEEP, "sleep")
        self._asleep = True
        return ENGINE - ASLEEP

    async def wake(self) -> None:
        await self._faults.call()
        self._check()
        self._take(ENGINE, "wake")
        self._asleep = False

    def crash(self) -> None:
        """Die: the memory is free a little later."""
        super().crash()
        asyncio.get_running_loop().call_later(SECONDS_TO_FREE, self._gpu.die, self._owner)

    async def _awake(self, what: str) -> None:
        await self._faults.call()
        if self._asleep:
            self._violations.append(f"{self._owner} sleeps in {what!r}")
        self._check()

    def _take(self, amount: int, what: str) -> None:
        if not self._gpu.hold(self._owner, amount, what):
            raise WorkerFailedError("out of memory")


class Learner:
    """A learner with a rank on each GPU, used instead of `LearnerGroup`. What it took stays with it until it gives it
    back, as with torch's allocator."""

    gpus: tuple[Gpu, ...]
    faults: Faults
    fail_next: bool
    """A rank dies in the next call, and that fails, as do all later ones; the other ranks still have their memory."""

    def __init__(self, settings: Any, **_: Any) -> None:
        self.weight_version = 0
        self._held = 0
        self._dead = False

    async def _call(self, what: str, peak: int) -> None:
        await self.faults.call()
        self._held = max(self._held, peak)
        for gpu in self.gpus:
            gpu.hold("learner", self._held, what)
        await self.faults.call()
        if Learner.fail_next or self._dead:
            Learner.fail_next, self._dead = False, True
            raise LearnerLostError(f"a rank died in {what!r}")

    async def start(self) -> None:
        await self._call("start", CONTEXT)

    async def check_file_visible(self, file: str) -> None: ...

    async def start_phase(self, folder: str, phase: Any, resume: str | None = None) -> None:
        await self._call("start_phase", PEAK)

    async def prepare(self, prompts: Any) -> dict[int, str]:
        return {}

    async def learn(self, groups: Any, counts: Any) -> Learned:
        await self._call("learn", PEAK)
        self.weight_version += bool(groups)
        return Learned(self.weight_version, {"loss/policy": 0.0, "tokens/trained": 1.0})

    async def supervise(self, examples: Any) -> Learned:
        await self._call("supervise", PEAK)
        self.weight_version += 1
        return Learned(self.weight_version, {"loss/total": 0.0, "tokens/trained": 1.0})

    async def publish(self, carrier: Carrier) -> WeightUpdate:
        await self._call("publish", SENDING)
        return WeightUpdate(self.weight_version, (), False, 0, carrier)

    async def next_piece(self) -> None:
        await self._call("next_piece", SENDING)

    async def save(self, folder: str, *, state: bool) -> None:
        await self._call("save", PEAK)
        Path(folder).mkdir(parents=True, exist_ok=True)

    async def is_saving(self) -> bool:
        return False

    async def wait_saved(self) -> None: ...

    async def check_saved(self, folder: str) -> None: ...

    async def give_memory_back(self) -> int:
        await self._call("give_memory_back", 0)
        freed, self._held = self._held - RESIDENT, min(self._held, RESIDENT)
        for gpu in self.gpus:
            gpu.hold("learner", self._held, "give_memory_back")
        return freed

    async def stop(self) -> None:
        for gpu in self.gpus:
            gpu.die("learner")
