"""An engine and a learner rank, as the parts of the check run them: the classes of a job, without its actors."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from benchmarks.gpu_day.plan import Home
from learner.messages import BatchCounts, PhaseSettings, StepStats
from learner.rank import LearnerRank
from learner.schedule import Schedule
from learner.settings import LearnerSettings, LoraSettings, OptimizerSettings
from protocol.rollout import Group, RolloutRequest, Sampling
from protocol.training import TrainingCompletion, TrainingGroup
from protocol.weights import Bucket, Carrier, WeightUpdate
from rollout_workers.limits import RolloutLimits
from rollout_workers.worker.worker import RolloutWorker

GIB = 2**30
TEMPLATE = PromptTemplate.ANSWER
_LEARNING_RATE = 1e-3
"""High: one step must change log-probabilities by much more than engine and learner differ."""
_STEPS = 1000


@dataclass(frozen=True, slots=True)
class Findings:
    """The findings of a part. It passed if all checks are true."""

    checks: Mapping[str, bool]
    measured: Mapping[str, Any] = field(default_factory=dict)


class Worker(RolloutWorker):
    """A rollout worker in this process. Where an actor would end its process, it records that."""

    ended = False

    def _end_process(self) -> None:
        self.ended = True


@asynccontextmanager
async def running_worker(home: Home) -> AsyncIterator[Worker]:
    """Start a worker with a job's settings; it answers inside the context."""
    worker = Worker("worker", home.worker_settings(), RolloutLimits())
    started = time.perf_counter()
    await worker.start()
    home.report(f"the engine answers after {time.perf_counter() - started:.1f} s")
    try:
        yield worker
    finally:
        await worker.stop()


async def ask(
    worker: RolloutWorker, questions: Sequence[Question], sampling: Sampling, *, first_seed: int = 0
) -> list[Group]:
    """Return a group for each question. Raises RuntimeError if one has none."""
    requests = [RolloutRequest(question, TEMPLATE, first_seed + i) for i, question in enumerate(questions)]
    outcomes = await worker.generate(requests, sampling)
    groups = [outcome for outcome in outcomes if isinstance(outcome, Group)]
    if len(groups) != len(questions):
        failed = next(outcome for outcome in outcomes if not isinstance(outcome, Group))
        raise RuntimeError(f"{len(questions) - len(groups)} of {len(questions)} questions have no answer: {failed}")
    return groups


class Learner:
    """One learner rank in this process, called as the carriers call a learner (`WeightSource`)."""

    def __init__(self, home: Home) -> None:
        plan = home.plan
        optimizer = OptimizerSettings(learning_rate=_LEARNING_RATE, schedule=Schedule.CONSTANT)
        settings = LearnerSettings(
            dtype=plan.dtype,
            zero_stage=1 if plan.device == "cuda" else 0,
            beta=0,
            lora=LoraSettings() if plan.adapters else None,
            micro_batch_tokens=4096,
            activation_checkpointing=plan.device == "cuda",
            optimizer=optimizer,
            threads=1 if plan.small else 0,
        )
        started = time.perf_counter()
        self.rank = LearnerRank(0, 1, settings)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        self.rank.join("127.0.0.1", port)
        self.rank.start_phase(str(home.model), PhaseSettings(optimizer, _STEPS, max_tokens=plan.sizes.in_flight_tokens))
        self.version = 0
        self.checksums = True
        """Publish digests, which the engine compares with the bytes that arrive."""
        home.report(f"the learner is ready after {time.perf_counter() - started:.1f} s")

    async def learn(self, groups: Sequence[Group]) -> StepStats:
        """Take a step on groups, with advantages that differ within each."""
        batch = training(groups)
        lengths = [len(c.token_ids) for group in batch for c in group.completions]
        stats = await asyncio.to_thread(self.rank.learn, batch, BatchCounts(len(lengths), sum(lengths)))
        self.version += stats.updates
        return stats

    async def give_memory_back(self) -> int:
        """Give unused GPU memory back, as a job's learner does before engines wake; return its bytes."""
        return await asyncio.to_thread(self.rank.give_memory_back)

    async def score(self, groups: Sequence[Group]) -> list[tuple[float, ...]]:
        """Return the log-probability of every token of every completion under the current weights."""
        return await asyncio.to_thread(self.rank.score, training(groups))

    async def publish(self, carrier: Carrier) -> WeightUpdate:
        """Publish the weights in shared memory, or describe them for another carrier."""
        if carrier is Carrier.SHARED_MEMORY:
            update = await asyncio.to_thread(self.rank.publish_shared_memory, self.version, self.checksums)
            if update is None:
                raise RuntimeError("the only rank published nothing")
            return update
        slots, audio = await asyncio.to_thread(self.rank.describe, self.checksums)
        return WeightUpdate(self.version, (Bucket(slots, None),), audio, sum(slot.nbytes for slot in slots), carrier)

    async def transferred(self) -> int:
        """Return 0: nothing is broadcast."""
        return 0

    async def abort_transfer(self) -> None:
        """Do nothing: a piece that cannot be packed ends by itself."""

    async def next_piece(self) -> Mapping[str, Any] | None:
        """Return the next piece of the weights in the GPU's memory; None after the last."""
        return await asyncio.to_thread(self.rank.next_piece)

    async def address(self) -> tuple[str, int]:
        """Raise RuntimeError: one GPU has no NCCL group."""
        raise RuntimeError("NCCL needs two GPUs")

    async def meet(self, address: str, port: int, members: int) -> None:
        """Raise RuntimeError, as `address` does."""
        await self.address()

    async def broadcast(self) -> None:
        """Raise RuntimeError, as `address` does."""
        await self.address()

    def close(self) -> None:
        self.rank.close()


@asynccontextmanager
async def running_learner(home: Home) -> AsyncIterator[Learner]:
    """Start a learner rank in this process, for the context."""
    learner = Learner(home)
    try:
        yield learner
    finally:
        learner.close()


def training(groups: Sequence[Group]) -> list[TrainingGroup]:
    """Return groups for the learner, with advantages from 1 down to -1 within each."""
    batch = []
    for group in groups:
        advantages = np.linspace(1, -1, len(group.completions))
        completions = tuple(
            TrainingCompletion(c.token_ids, c.logprobs, float(a))
            for c, a in zip(group.completions, advantages, strict=True)
        )
        batch.append(
            TrainingGroup(group.question, group.template, group.prompt_token_ids, completions, group.weight_version)
        )
    return batch


def differences(groups: Sequence[Group], scored: Iterable[Sequence[float]]) -> np.ndarray:
    """Return the learner's minus the engine's log-probability of every token, shape (tokens,)."""
    sampled = [completion.logprobs for group in groups for completion in group.completions]
    return np.concatenate([np.asarray(a) - np.asarray(b) for a, b in zip(scored, sampled, strict=True)])


def summary(difference: np.ndarray) -> dict[str, float]:
    """Return mean, 99th percentile and maximum of the absolute differences, in nats."""
    absolute = np.abs(difference)
    return {
        "tokens": len(absolute),
        "mean": float(absolute.mean()),
        "p99": float(np.quantile(absolute, 0.99)),
        "maximum": float(absolute.max()),
        "mean_ratio": float(np.exp(difference).mean()),
    }


def agree(home: Home, found: Mapping[str, float]) -> bool:
    """Return whether a summary of differences is within the bounds of the type.

    Those of float32 are the tests'. Those of bfloat16 are an expectation: its numbers have 8 bits, and a logit of a few
    units is rounded by about 0.01.
    """
    if home.plan.dtype == "float32":
        return found["maximum"] < 1e-4
    return found["mean"] < 0.05 and found["p99"] < 0.25


def free_gib() -> float:
    """Return the free memory of the GPU as its driver counts it, of all processes, in GiB."""
    return torch.cuda.mem_get_info()[0] / GIB
