"""All learner ranks as one: what the controller holds."""

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from audio_qa.audio import TooLong
from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from learner.actor import LearnerActor
from learner.phase import Phase, Tally
from learner.settings import LearnerSettings
from protocol.training import Learned, SupervisedExample, TrainingGroup
from protocol.weights import WeightUpdate

START_SECONDS = 300.0
STOP_SECONDS = 3.0


class LearnerError(RuntimeError):
    """A rank failed, died or hung; the message says which call and why."""


class LearnerGroup:
    """`settings.ranks` Ray actors that learn together; its methods are coroutines of one event loop.

    `weight_version` counts the optimizer steps since the job began, the warm start's among them.
    """

    def __init__(self, settings: LearnerSettings, *, too_long: TooLong = "refuse", gpus_per_rank: float = 0.0) -> None:
        self._settings = settings
        threads = settings.threads or max(1, (os.cpu_count() or 1) // settings.ranks)
        accelerator = "cuda" if gpus_per_rank else "cpu"
        actor = ray.remote(LearnerActor).options(
            num_cpus=1,
            num_gpus=gpus_per_rank,
            max_restarts=0,
            max_task_retries=0,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(threads), "DS_ACCELERATOR": accelerator}},
        )
        self._ranks = [actor.remote(rank, settings.ranks, settings, too_long) for rank in range(settings.ranks)]
        self.weight_version = 0

    async def start(self) -> None:
        """Bring the ranks together."""
        ((address, port),) = await self._wait([self._ranks[0].call.remote("address")], "address", START_SECONDS)
        await self._call("join", address, port, seconds=START_SECONDS)

    async def begin(self, folder: str, phase: Phase) -> None:
        """Start a phase on the checkpoint in `folder`."""
        await self._call("begin", folder, phase, seconds=START_SECONDS)

    async def prepare(self, asked: Sequence[tuple[Question, PromptTemplate]]) -> dict[int, str]:
        """Have the ranks read a batch's clips; the places in `asked` that any of them cannot read, and why."""
        unreadable: dict[int, str] = {}
        for found in await self._call("prepare", list(asked)):
            unreadable |= found
        return unreadable

    async def learn(self, groups: Sequence[TrainingGroup], sequences: int) -> Learned:
        """One GRPO step on the whole batch. Without groups nothing but the schedule moves, and the version stays."""
        if not groups:
            await self._call("skip")
            return Learned(self.weight_version, {})
        metrics = step_metrics_of(await self._call("learn", ray.put(list(groups)), sequences))
        self.weight_version += 1
        return Learned(self.weight_version, metrics)

    async def supervise(self, examples: Sequence[SupervisedExample]) -> Learned:
        """One supervised step on the whole batch. Without examples nothing is updated."""
        if not examples:
            return Learned(self.weight_version, {})
        metrics = step_metrics_of(await self._call("supervise", ray.put(list(examples))))
        self.weight_version += 1
        return Learned(self.weight_version, metrics)

    async def score(self, groups: Sequence[TrainingGroup]) -> list[tuple[float, ...]]:
        """Log-probability of every token of every completion, by rank 0."""
        (scores,) = await self._wait([self._ranks[0].call.remote("score", list(groups))], "score", START_SECONDS)
        return scores  # type: ignore[no-any-return]

    async def publish(self, version: int) -> WeightUpdate:
        """The trained parameters, in the object store."""
        update = (await self._call("publish", version))[0]
        assert isinstance(update, WeightUpdate)
        return update

    async def save(self, folder: str) -> None:
        """Write a Hugging Face checkpoint, whole or not at all."""
        await self._call("save", folder)

    async def stop(self) -> None:
        """End the ranks' processes, politely first."""
        closing = [asyncio.ensure_future(_future(rank.call.remote("close"))) for rank in self._ranks]
        try:
            await asyncio.wait(closing, timeout=STOP_SECONDS)
        finally:
            for rank in self._ranks:
                ray.kill(rank)
            await asyncio.gather(*closing, return_exceptions=True)

    async def _call(self, method: str, *arguments: object, seconds: float | None = None) -> list[Any]:
        calls = [rank.call.remote(method, *arguments) for rank in self._ranks]
        return await self._wait(calls, method, seconds or self._settings.timeout_seconds)

    async def _wait(self, calls: Sequence[Any], method: str, seconds: float) -> list[Any]:
        """The answers of all ranks, or the first failure in time: the ranks that wait for the failed one would hang."""
        answers = [asyncio.ensure_future(_future(call)) for call in calls]
        try:
            _, pending = await asyncio.wait(answers, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
            failed = [a for a in answers if a.done() and a.exception() is not None]
            if pending and not failed:
                raise LearnerError(f"{len(pending)} learner ranks did not finish '{method}' within {seconds:.0f} s")
            return [answer.result() for answer in failed or answers]
        except RayTaskError as error:
            cause = error.cause
            raise LearnerError(f"a learner rank failed in '{method}': {type(cause).__name__}: {cause}") from error
        except RayError as error:
            raise LearnerError(f"a learner rank died in '{method}': {error}") from error
        finally:
            for answer in answers:
                answer.cancel()


async def _future(call: Any) -> Any:
    return await call


def step_metrics_of(tallies: Sequence[Tally]) -> dict[str, float]:
    """The step's metrics from the ranks' sums."""
    tokens = max(1, sum(t.tokens for t in tallies))
    return {
        "loss/total": sum(t.loss for t in tallies),
        "loss/policy": sum(t.policy for t in tallies),
        "kl/ref": sum(t.kl for t in tallies),
        "entropy": sum(t.entropy for t in tallies) / tokens,
        "ratio/mean": sum(t.ratio for t in tallies) / tokens,
        "logprob/gap_max": max(t.logprob_gap for t in tallies),
        "grad_norm": tallies[0].grad_norm,
        "learning_rate": tallies[0].learning_rate,
        "tokens/trained": float(tokens),
    }
