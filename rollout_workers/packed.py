"""Requests and answers as bytes, on their way between the pool's process and a worker's.

Ray would take them as they are, but then it is cloudpickle that walks through every object, and each argument becomes a
stored object of its own: a call takes the pool's thread about twice as long (`benchmarks/pool_scale.py`).
"""

import pickle
from abc import ABC, abstractmethod
from collections.abc import Sequence

from protocol.rollout import Answer, NoAnswer, RolloutRequest, Sampling

Outcome = Answer | NoAnswer


def packed(requests: Sequence[RolloutRequest], sampling: Sampling) -> bytes:
    """What `PackedWorker.answer` takes."""
    return pickle.dumps((list(requests), sampling))


def outcomes(answer: bytes) -> list[Outcome]:
    """What `PackedWorker.answer` returned. Only ever of this job's own processes."""
    return pickle.loads(answer)  # type: ignore[no-any-return]


class PackedWorker(ABC):
    """A worker that can be asked by bytes."""

    @abstractmethod
    async def generate(self, requests: Sequence[RolloutRequest], sampling: Sampling) -> list[Outcome]:
        """One outcome for each request, in their order."""

    async def answer(self, asked: bytes) -> bytes:
        """`generate`, for a caller in another process."""
        requests, sampling = pickle.loads(asked)
        return pickle.dumps(await self.generate(requests, sampling))
