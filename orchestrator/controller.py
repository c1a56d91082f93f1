"""The loop: draw questions, generate, score, learn, send the weights back.

Invariant: every question drawn ends, within its step, in exactly one place of the ledger, and the ledger is checked
before the next step. Neither audio nor weights pass through here: messages carry paths and object references.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from audio_qa.prompt import solution_text
from audio_qa.question import Question
from learner.group import LearnerGroup
from learner.phase import Phase
from orchestrator.batch import JudgedGroup, Verdict, judge
from orchestrator.evaluation import Evaluation, evaluate
from orchestrator.ledger import Draw, Ledger
from orchestrator.progress import Progress
from orchestrator.run_directory import RunDirectory, group_samples
from orchestrator.source import QuestionSource, sample_seed
from orchestrator.spec import JobSpec, WarmStartSection
from orchestrator.step_metrics import Stopwatch, step_metrics
from protocol.rollout import FailedQuestion, Group, RolloutRequest, Sampling
from protocol.training import SupervisedExample
from rollout_workers.pool import RolloutPool

Scorer = Callable[[list[Group]], Any]
"""Calls the reward actor and returns an awaitable of one tuple of scores a group."""


@dataclass(slots=True)
class Controller:
    """One job on parts that are up and running."""

    spec: JobSpec
    train: Sequence[Question]
    held_out: Sequence[Question]
    pool: RolloutPool
    learner: LearnerGroup
    score: Scorer
    run: RunDirectory
    progress: Progress
    ledger: Ledger = field(default_factory=Ledger)
    evaluations: dict[int, Evaluation] = field(default_factory=dict)

    async def reinforce(self, folder: str) -> None:
        """Reinforcement learning on the checkpoint in `folder`, whose weights the rollout workers already hold."""
        spec = self.spec
        source = QuestionSource(self.train, seed=spec.seed, shuffle=spec.data.shuffle)
        phase = Phase(spec.learner.optimizer, spec.steps, spec.rollout.temperature, spec.learner.beta)
        await self.learner.begin(folder, phase)
        await self.evaluate(0)
        for step in range(1, spec.steps + 1):
            await self._step(step, source)
            every = spec.checkpoint.every
            if step == spec.steps or (every and step % every == 0):
                self.progress.phase("saving")
                await self.learner.save(str(self.run.checkpoint(step)))
                self.run.append_event("checkpoint", step=step, path=str(self.run.checkpoint(step)))

    async def _step(self, step: int, source: QuestionSource) -> None:
        spec, watch = self.spec, Stopwatch()
        questions = source.draw(spec.rollout.questions_per_step)
        draws = [self.ledger.draw(question.key) for question in questions]
        requests = [
            RolloutRequest(question, spec.data.prompt, sample_seed(spec.seed, draw.number))
            for question, draw in zip(questions, draws, strict=True)
        ]
        self.progress.phase("generating")
        with watch.phase("generate"):
            answers = await self.generate(requests, self._sampling())
        groups: list[tuple[Draw, Group]] = []
        for draw, answer in zip(draws, answers, strict=True):
            if isinstance(answer, Group):
                groups.append((draw, answer))
                if answer.truncated_seconds:
                    self.run.append_event(
                        "truncated_clip", step=step, question=draw.key, seconds=round(answer.truncated_seconds, 3)
                    )
            else:
                self._fail(draw, step, answer.reason, answer.detail)

        self.progress.phase("rewarding")
        with watch.phase("reward"):
            scores = await self.score([group for _, group in groups])
        judged = [
            judge(draw, group, group_scores, beta=spec.learner.beta)
            for (draw, group), group_scores in zip(groups, scores, strict=True)
        ]

        self.progress.phase("learning")
        with watch.phase("learn"):
            judged = await self._readable(judged, step)
            trained = [g for g in judged if g.verdict is Verdict.TRAIN]
            version = self.learner.weight_version
            learned = await self.learner.learn([g.training_group() for g in trained], sum(g.sequences for g in judged))
        self.progress.phase("syncing")
        with watch.phase("sync"):
            if learned.version != version:
                await self.pool.update(await self.learner.publish(learned.version))

        self._settle(judged, step, version)
        metrics = step_metrics(
            step=step,
            epoch=source.epoch,
            judged=judged,
            failed=len(draws) - len(judged),
            learned=learned.metrics,
            learner_version=version,
            workers_alive=len(self.pool),
            watch=watch,
            beta=spec.learner.beta,
        )
        every = spec.evaluation.every
        if step == spec.steps or (every and step % every == 0):
            metrics |= await self.evaluate(step)
        self.run.append_metrics(metrics)
        self.progress.step({k: v for k, v in metrics.items() if v is not None}, spec.steps)

    async def _readable(self, judged: list[JudgedGroup], step: int) -> list[JudgedGroup]:
        """Have the learner read the clips; a group whose clip it cannot read is recorded as failed and left out."""
        trained = [g for g in judged if g.verdict is Verdict.TRAIN]
        unreadable = await self.learner.prepare([(g.group.question, g.group.template) for g in trained])
        lost = {trained[i].draw: problem for i, problem in unreadable.items()}
        for draw, problem in lost.items():
            self._fail(draw, step, "audio", problem)
        return [g for g in judged if g.draw not in lost]

    def _fail(self, draw: Draw, step: int, reason: str, detail: str) -> None:
        self.ledger.failed(draw, reason)
        self.run.append_event("failed_question", step=step, question=draw.key, reason=str(reason), detail=detail)

    def _settle(self, judged: Sequence[JudgedGroup], step: int, version: int) -> None:
        """Give every group its end in the ledger and write its samples."""
        for g in judged:
            if g.verdict is Verdict.UNSCORED:
                errors = sorted({score.error for score in g.scores if score.error})
                self._fail(g.draw, step, "reward", "; ".join(errors))
            elif g.verdict is Verdict.ZERO_VARIANCE:
                self.ledger.zero_variance(g.draw)
            else:
                self.ledger.trained(g.draw)
            self.run.append_samples(
                group_samples(g.group, g.scores, g.advantages, draw=g.draw.number, step=step, learner_version=version)
            )
        self.ledger.check(held=())

    async def warm_start(self, folder: str, warm: WarmStartSection) -> None:
        """Supervised steps on right answers to a few training questions, starting from the checkpoint in `folder`."""
        spec = self.spec
        await self.learner.begin(folder, Phase(warm.optimizer, warm.steps))
        chosen = QuestionSource(self.train, seed=spec.seed + 1, shuffle=spec.data.shuffle).draw(
            min(warm.questions, len(self.train))
        )
        source = QuestionSource(chosen, seed=spec.seed, shuffle=True)
        for step in range(1, warm.steps + 1):
            questions = source.draw(warm.batch_size)
            unreadable = await self.learner.prepare([(q, spec.data.prompt) for q in questions])
            for i, problem in unreadable.items():
                self.run.append_event("skipped_question", question=questions[i].key, reason="audio", detail=problem)
            examples = [
                SupervisedExample(q, spec.data.prompt, solution_text(q.answer, spec.data.prompt))
                for i, q in enumerate(questions)
                if i not in unreadable
            ]
            learned = await self.learner.supervise(examples)
            self.progress.phase(f"warm start {step}/{warm.steps}")
            if step == warm.steps or step % 10 == 0:
                self.run.append_event("warm_start", step=step, of=warm.steps, loss=learned.metrics.get("loss/total"))

    async def evaluate(self, step: int) -> dict[str, float | None]:
        """Evaluate the weights the rollout workers hold; the figures for the step's metrics."""
        if not self.held_out:
            return {}
        self.progress.phase("evaluating")
        result = await evaluate(self.generate, self.held_out, self.spec.data.prompt, self.spec.rollout.max_tokens)
        self.evaluations[step] = result
        self.run.append_event("evaluation", step=step, result=result.as_event())
        self.progress.evaluation(step, result.as_event())
        return {"eval/accuracy": result.total.accuracy, "eval/accuracy_silence": result.total.silence_accuracy}

    async def generate(self, requests: Sequence[RolloutRequest], sampling: Sampling) -> list[Group | FailedQuestion]:
        """Have the pool answer; the same worker and batch every time where the job is deterministic."""
        return await self.pool.generate(requests, sampling, by_rule=self.spec.deterministic)

    def _sampling(self) -> Sampling:
        rollout = self.spec.rollout
        return Sampling(rollout.group_size, rollout.max_tokens, rollout.temperature)
