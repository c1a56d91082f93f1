"""The frame of a training loop: run the steps that are left, evaluate, save, and stop after non-finite updates.

`TrainingLoop.run` is the same for every method; `reinforce.py` and `supervised.py` define one step.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audio_qa.errors import EarshotError
from audio_qa.question import Question
from learner.errors import LearnerError
from learner.group import LearnerGroup
from learner.messages import PhaseSettings
from orchestrator.display.progress import Progress
from orchestrator.evaluation.evaluate import evaluate_held_out
from orchestrator.job.demand import shares_gpus
from orchestrator.job.spec import JobSpec
from orchestrator.questions.ledger import Draw
from orchestrator.questions.solve_rates import SolveRate
from orchestrator.questions.source import Source
from orchestrator.run.checkpoints import Checkpoints
from orchestrator.run.directory import RunDirectory
from orchestrator.run.events import EventKind
from orchestrator.training.control import Control
from orchestrator.training.evaluation_record import record_evaluation
from orchestrator.training.shared_gpus import SharedGpus
from orchestrator.training.state import RunState
from orchestrator.training.trial import CheckpointTrial
from protocol.training import Learned
from rollout_workers.pool.pool import RolloutPool

NONFINITE_DETAIL = "the update was skipped: a loss or gradient was not finite"
"""Recorded with the questions of such an update."""


class NonFiniteError(EarshotError):
    """Too many updates in a row were skipped because a loss or a gradient was not finite."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The running parts of a job, and its questions, as a training loop needs them."""

    spec: JobSpec
    train: Sequence[Question]
    held_out: Sequence[Question]
    pool: RolloutPool
    learner: LearnerGroup
    run_dir: RunDirectory
    checkpoints: Checkpoints
    progress: Progress
    state: RunState
    control: Control
    measured: Mapping[str, SolveRate] = field(default_factory=dict)
    """By question key, solve rates measured before the job, for its curriculum."""
    trial: CheckpointTrial | None = None
    """None with a simulated learner, which has no checkpoints."""


class TrainingLoop(ABC):
    """The steps of one job on running parts."""

    def __init__(self, parts: Parts) -> None:
        self.spec, self.train, self.held_out = parts.spec, parts.train, parts.held_out
        self.pool, self.learner = parts.pool, parts.learner
        self.gpus = SharedGpus(parts.pool.memory if shares_gpus(parts.spec) else None, parts.learner)
        self.run_dir, self.checkpoints, self.progress = parts.run_dir, parts.checkpoints, parts.progress
        self.state, self.control, self._trial = parts.state, parts.control, parts.trial
        self._being_saved: tuple[int, dict[str, Any], tuple[str, ...]] | None = None
        """Step, the job's state and the ids of the commands that the checkpoint answers."""

    @property
    @abstractmethod
    def source(self) -> Source:
        """The stream that questions are drawn from."""

    @abstractmethod
    def phase(self) -> PhaseSettings:
        """Return the learner's settings for the steps."""

    @abstractmethod
    async def run_step(self, step: int) -> None:
        """Run one learner step, up to its record in the run directory."""

    async def before_evaluation(self) -> None:  # noqa: B027 - the workers may have the weights
        """Give the rollout workers the weights of the step that is evaluated."""

    async def close(self) -> None:  # noqa: B027 - most loops have nothing to release
        """Release what the steps hold, also after an error."""

    async def run(self, folder: str, resume: str | None, workers_ready: Callable[[], Awaitable[None]]) -> None:
        """Run all steps that are left.

        Args:
            folder: the checkpoint that the phase starts from.
            resume: a checkpoint of this phase to resume from.
            workers_ready: returns once the rollout workers serve with the right weights.
        """
        spec, state = self.spec, self.state
        self.control.repeat_checkpoints()
        await self.gpus.learning()
        await self.learner.start_phase(folder, self.phase(), resume)
        # Meanwhile the rollout workers start.
        await self.try_checkpoint()
        await workers_ready()
        if state.step == 0:
            await self.evaluate(0)
        try:
            for step in range(state.step + 1, spec.steps + 1):
                await self.control.wait_while_paused(self._save_paused if state.step else None)
                await self.run_step(step)
                await self._end_step(step)
                if self.is_due(spec.checkpoint.every, step) or self.control.checkpoint_requested:
                    await self.save(step)
            await self.finish_saving()
        finally:
            await self.close()

    async def _save_paused(self) -> None:
        """Write the checkpoint of a paused job's last step, unless it has been written."""
        await self.finish_saving()
        if self.checkpoints.latest() == self.state.step:
            path = self.checkpoints.folder(self.state.step)
            self._record_checkpoint(self.state.step, path, self.control.begin_checkpoint())
            return
        # Rollouts that run ahead may have drawn questions since.
        await self._end_step(self.state.step)
        await self.save(self.state.step)
        await self.finish_saving()

    async def _end_step(self, step: int) -> None:
        self.state.step, self.state.position = step, self.source.position
        self.state.weight_version = self.learner.weight_version
        await self.finish_saving(wait=False)

    async def sync_weights(self) -> None:
        """Publish the learner's weights and give them to the rollout workers; workers that fail are replaced."""
        async with self.gpus.updating():
            await self.pool.update(await self.learner.publish(self.pool.carrier))

    async def evaluate(self, step: int) -> dict[str, float | None]:
        """Evaluate the weights that the rollout workers have; return the figures for the step's metrics.

        Raises NothingAskedError before the first step if no question could be asked. Later the accuracy is None then:
        the job has trained, and its questions may be readable again at the next evaluation.
        """
        if not self.held_out:
            return {}
        self.progress.phase("evaluating")
        await self.gpus.generating()
        result = await evaluate_held_out(self.pool.generate, self.spec, self.held_out)
        record_evaluation(self.run_dir, self.progress, step, result)
        if step == 0:
            result.require_asked()
        total = result.total
        self.state.accuracy = total.accuracy
        figures = {
            "eval/accuracy": total.accuracy,
            "eval/accuracy_silence": total.silence_accuracy,
            "eval/failed": total.failed,
            "eval/truncated_fraction": total.truncated_fraction,
        }
        if total.shuffled_accuracy is not None:
            figures["eval/accuracy_shuffled"] = total.shuffled_accuracy
        return figures

    def is_due(self, every: int, step: int) -> bool:
        """Return whether an action that runs every `every` steps, and at the end, is due."""
        return step == self.spec.steps or bool(every and step % every == 0)

    async def record_step(self, step: int, metrics: dict[str, float | None], learned: Learned) -> None:
        """Evaluate if that is due, write the step's metrics, and check that its update was finite."""
        self.state.accuracy = None
        if self.is_due(self.spec.evaluation.every, step):
            try:
                await self.before_evaluation()
                metrics |= await self.evaluate(step)
            except LearnerError:
                raise
            except Exception:
                # The rollout workers failed. The steps since the last checkpoint must not be lost with them.
                self.run_dir.append_metrics(metrics)
                await self._end_step(step)
                await self.save(step)
                await self.finish_saving()
                raise
        self.run_dir.append_metrics(metrics)
        self.progress.step({k: v for k, v in metrics.items() if v is not None}, self.spec.steps)
        self.check_finite(step, learned)

    def record_failure(self, draw: Draw, step: int, reason: str, detail: str) -> None:
        """Record a question that was not trained on."""
        self.state.ledger.failed(draw, reason)
        self.run_dir.append_event(
            EventKind.FAILED_QUESTION, step=step, question=draw.key, reason=str(reason), detail=detail
        )

    def check_finite(self, step: int, learned: Learned) -> None:
        """Report skipped updates and smaller micro-batches.

        Raises NonFiniteError after `learner.max_nonfinite_steps` skipped updates in a row.
        """
        if learned.metrics.get("learner/cut_smaller"):
            self.run_dir.append_event(
                EventKind.BATCH_CUT_SMALLER, step=step, micro_batches=learned.metrics["learner/micro_batches"]
            )
            self.progress.message(f"step {step} did not fit into memory: its batch was cut into smaller micro-batches")
        skipped = int(learned.metrics.get("learner/nonfinite", 0))
        if not skipped:
            self.state.nonfinite_in_row = 0
            return
        self.state.nonfinite_in_row += skipped
        self.run_dir.append_event(EventKind.NONFINITE_UPDATE, step=step, in_row=self.state.nonfinite_in_row)
        self.progress.message(f"step {step}: a loss or gradient was not finite; the update was skipped")
        if self.state.nonfinite_in_row >= self.spec.learner.max_nonfinite_steps:
            raise NonFiniteError(
                f"{self.state.nonfinite_in_row} updates in a row, up to step {step}, were skipped because a loss or a "
                "gradient was not finite; the parameters are those of the last finite update: lower the learning rate, "
                "or look at the completions of these steps in samples.jsonl"
            )

    async def try_checkpoint(self) -> None:
        """Write a checkpoint for trial, unless this process has, or will write none. Raises CheckpointTrialError."""
        if self._trial is not None and (self.spec.steps or self.spec.warm_start is not None):
            await self._trial.run(self.learner, self.state.to_dict())

    async def save(self, step: int) -> None:
        """Start to write the checkpoint of a step, which takes until some steps later."""
        await self.finish_saving()
        self.progress.phase("saving")
        # The ranks gather parameters on their GPUs.
        await self.gpus.learning()
        await self.learner.save(str(self.checkpoints.begin(step)), state=True)
        self.state.offsets = self.run_dir.offsets()
        self._being_saved = (step, self.state.to_dict(), self.control.begin_checkpoint())

    async def finish_saving(self, *, wait: bool = True) -> None:
        """Commit the checkpoint that is being written, once it is on disk; without `wait`, only if it is already."""
        if self._being_saved is None or (not wait and await self.learner.is_saving()):
            return
        await self.learner.wait_saved()
        (step, job, commands), self._being_saved = self._being_saved, None
        if step == self.spec.steps:
            # No other checkpoint follows: what was requested meanwhile is this one.
            commands += self.control.begin_checkpoint()
        self._record_checkpoint(step, self.checkpoints.commit(step, job), commands)

    def _record_checkpoint(self, step: int, path: Path, commands: tuple[str, ...]) -> None:
        self.run_dir.append_event(EventKind.CHECKPOINT, step=step, path=str(path), commands=list(commands))
        self.control.end_checkpoint(commands)
