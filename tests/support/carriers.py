"""A learner and workers that record the calls of carriers."""

import asyncio
from dataclasses import replace

from protocol.weights import Bucket, Carrier, TensorSlot, WeightUpdate

SLOTS = (TensorSlot("a", "bfloat16", (2, 3), 12, "d1"), TensorSlot("b", "float32", (4,), 16))
UPDATE_IN_STORE = WeightUpdate(5, (), audio_changed=True, nbytes=28)
UPDATE = WeightUpdate(5, (Bucket(SLOTS, None),), audio_changed=True, nbytes=28, carrier=Carrier.NCCL)


class Learner:
    """Records its calls, and has weights in two pieces."""

    def __init__(self):
        self.calls, self.ports, self.pieces = [], 0, []
        self.version = 5

    async def publish(self, carrier):
        return replace(UPDATE, version=self.version, carrier=carrier)

    async def address(self):
        self.ports += 1
        return "learner", 7000 + self.ports

    async def meet(self, address, port, members):
        self.calls.append(("meet", address, port, members))

    async def broadcast(self):
        self.calls.append(("broadcast",))

    async def transferred(self):
        return sum(call[0] == "broadcast" for call in self.calls)

    async def abort_transfer(self):
        self.calls.append(("abort",))

    async def next_piece(self):
        return self.pieces.pop(0) if self.pieces else None


class Worker:
    """Takes an update part by part; each part fails or hangs on demand."""

    def __init__(self):
        self.calls, self.trouble = [], {}

    async def part(self, name, *arguments):
        self.calls.append((name, *arguments))
        if name in self.trouble:
            trouble = self.trouble.pop(name)
            await asyncio.sleep(1000) if trouble is None else None
            raise trouble

    async def begin_update(self):
        await self.part("begin")

    async def meet(self, info):
        await self.part("meet", info)

    async def load(self, piece):
        await self.part("load", piece)

    async def finish_update(self, update):
        await self.part("finish")
        return update.version

    async def update(self, update):
        await self.part("update", update.carrier)
        return update.version

    def names(self):
        return [call[0] for call in self.calls]


def distribute(sync, workers, update=UPDATE):
    """Return the outcome of each worker."""

    async def whole():
        versions = sync.distribute(update, workers)
        outcomes = await asyncio.gather(*versions.values(), return_exceptions=True)
        return dict(zip(versions, outcomes, strict=True))

    return asyncio.run(whole())
