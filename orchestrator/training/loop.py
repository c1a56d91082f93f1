"""What every loop over learner steps does beside learning: evaluate, save, stop on what is not finite."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from audio_qa.question import Question
from learner.group import LearnerGroup
from orchestrator.display.progress import Progress
from orchestrator.evaluation.evaluate import evaluate
from orchestrator.job.spec import JobSpec
from orchestrator.questions.ledger import Draw
from orchestrator.run.checkpoints import Checkpoints
from orchestrator.run.directory import RunDirectory
from orchestrator.training.control import Control
from orchestrator.training.state import RunState
from protocol.rollout import FailedQuestion, Group, RolloutRequest, Sampling
from protocol.training import Learned
from protocol.weights import Carrier
from rollout_workers.pool.pool import RolloutPool


class NonFiniteError(RuntimeError):
    """Updates in a row were stopped by a loss or a gradient that is not finite."""


@dataclass(slots=True)
class Loop(ABC):
    """One job on parts that are up and running."""

    spec: JobSpec
    train: Sequence[Question]
    held_out: Sequence[Question]
    pool: RolloutPool
    learner: LearnerGroup
    run: RunDirectory
    checkpoints: Checkpoints
    progress: Progress
    state: RunState
    control: Control
    _being_saved: tuple[int, dict[str, Any]] | None = field(default=None)

    @abstractmethod
    async def go(self, folder: str, resume: str | None, ready: Callable[[], Awaitable[None]]) -> None:
        """All steps that are left.

        Args:
            folder: the checkpoint the phase starts from.
            resume: a checkpoint of this phase to go on from.
            ready: waits for the rollout workers.
        """

    async def sync(self) -> None:
        """Give the rollout workers the learner's weights; those that fail to take them are replaced."""
        await self.pool.update(await self.learner.publish(self.pool.carrier))

    @asynccontextmanager
    async def learning(self) -> AsyncIterator[None]:
        """Around the learner's work: rollout workers that share its GPU give it their memory meanwhile."""
        if self.spec.rollout.weight_sync is not Carrier.CUDA_IPC:
            yield
            return
        await self.pool.rest()
        try:
            yield
        finally:
            await self.pool.wake()

    async def evaluate(self, step: int) -> dict[str, float | None]:
        """Evaluate the weights the rollout workers hold; the figures for the step's metrics."""
        if not self.held_out:
            return {}
        self.progress.phase("evaluating")
        section = self.spec.evaluation
        result = await evaluate(
            self.generate,
            self.held_out,
            self.spec.data.prompt,
            self.spec.rollout.max_tokens,
            samples=section.samples,
            temperature=section.temperature,
            controls=section.controls,
            seed=self.spec.seed,
        )
        self.run.append_event("evaluation", step=step, result=result.as_event())
        self.progress.evaluation(step, result.as_event())
        self.state.accuracy = result.total.accuracy
        total = result.total
        figures = {"eval/accuracy": total.accuracy, "eval/accuracy_silence": total.silence_accuracy}
        return (
            figures
            if total.shuffled_accuracy is None
            else figures | {"eval/accuracy_shuffled": total.shuffled_accuracy}
        )

    async def generate(self, requests: Sequence[RolloutRequest], sampling: Sampling) -> list[Group | FailedQuestion]:
        """Have the pool answer; the same worker and batch every time where the job is deterministic."""
        return await self.pool.generate(requests, sampling, by_rule=self.spec.deterministic)

    def due(self, every: int, step: int) -> bool:
        """Whether something that is done every so many steps, and at the end, is due."""
        return step == self.spec.steps or bool(every and step % every == 0)

    def fail(self, draw: Draw, step: int, reason: str, detail: str) -> None:
        """Record a question that nothing was learnt from."""
        self.state.ledger.failed(draw, reason)
        self.run.append_event("failed_question", step=step, question=draw.key, reason=str(reason), detail=detail)

    def watch_finite(self, step: int, learned: Learned) -> None:
        """Show what the learner did about trouble; raise NonFiniteError after too many stopped updates in a row."""
        if learned.metrics.get("learner/cut_smaller"):
            self.run.append_event(
                "batch_cut_smaller", step=step, micro_batches=learned.metrics["learner/micro_batches"]
            )
            self.progress.message(f"step {step} did not fit into the memory: its batch was cut smaller")
        stopped = int(learned.metrics.get("learner/nonfinite", 0))
        if not stopped:
            self.state.nonfinite_in_row = 0
            return
        self.state.nonfinite_in_row += stopped
        self.run.append_event("nonfinite_update", step=step, in_row=self.state.nonfinite_in_row)
        self.progress.message(f"step {step}: a loss or gradient was not finite; the update was stopped")
        if self.state.nonfinite_in_row >= self.spec.learner.max_nonfinite_steps:
            raise NonFiniteError(
                f"{self.state.nonfinite_in_row} updates in a row, up to step {step}, were stopped because a loss or a "
                "gradient was not finite; the parameters are those of the last finite update: lower the learning rate, "
                "or look at the completions of these steps in samples.jsonl"
            )

    async def save(self, step: int) -> None:
        """Begin to write the checkpoint of a step; it is whole some steps later."""
        await self.finish_saving()
        self.progress.phase("saving")
        await self.learner.save(str(self.checkpoints.begin(step)), state=True)
        self.state.offsets = self.run.offsets()
        self._being_saved = (step, self.state.to_dict())

    async def finish_saving(self, *, wait: bool = True) -> None:
        """Make the checkpoint that is being written whole, once it is on disk; without `wait`, only if it is by now."""
        if self._being_saved is None or (not wait and await self.learner.saving()):
            return
        await self.learner.saved()
        (step, job), self._being_saved = self._being_saved, None
        self.run.append_event("checkpoint", step=step, path=str(self.checkpoints.commit(step, job)))
