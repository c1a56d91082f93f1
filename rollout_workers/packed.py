"""Requests and answers as bytes, between the pool's process and a worker's.

Ray accepts the objects as they are, but then cloudpickle walks through every one of them, and each argument becomes a
stored object: a call takes the pool's thread about twice as long (`benchmarks/pool_scale.py`).
"""

import pickle
from abc import ABC, abstractmethod
from collections.abc import Sequence

from protocol.rollout import Answer, NoAnswer, RolloutRequest, Sampling

Outcome = Answer | NoAnswer


def pack_requests(requests: Sequence[RolloutRequest], sampling: Sampling) -> bytes:
    """Return the argument of `PackedWorker.generate_packed`."""
    return pickle.dumps((list(requests), sampling))


def unpack_outcomes(packed: bytes) -> list[Outcome]:
    """Read the result of `PackedWorker.generate_packed`. Unpickles: only for bytes of this job's own processes."""
    return pickle.loads(packed)  # type: ignore[no-any-return]


class PackedWorker(ABC):
    """A worker that another process calls with bytes."""

    @abstractmethod
    async def generate(self, requests: Sequence[RolloutRequest], sampling: Sampling) -> list[Outcome]:
        """Return one outcome for each request, in their order."""

    async def generate_packed(self, packed: bytes) -> bytes:
        """Call `generate` on packed requests and return packed outcomes."""
        requests, sampling = pickle.loads(packed)
        return pickle.dumps(await self.generate(requests, sampling))
