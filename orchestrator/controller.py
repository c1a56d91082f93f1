"""The loop of reinforcement learning: draw questions, generate, score, learn, send the weights back.

Invariant: every question drawn ends, within its step, in exactly one place of the ledger, and the ledger is checked
before the next step. Neither audio nor weights pass through here: messages carry paths and object references.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from learner.phase import Phase
from orchestrator.batch import JudgedGroup, Verdict, batch_counts, judge
from orchestrator.ledger import Draw
from orchestrator.loop import Loop
from orchestrator.run_directory import group_samples
from orchestrator.source import QuestionSource, sample_seed
from orchestrator.step_metrics import Stopwatch, step_metrics
from protocol.rollout import Group, RolloutRequest, Sampling

Scorer = Callable[[list[Group]], Any]
"""Calls the reward actor and returns an awaitable of one tuple of scores a group."""


@dataclass(slots=True, kw_only=True)
class Controller(Loop):
    """One job of reinforcement learning."""

    score: Scorer

    async def go(self, folder: str, resume: str | None, ready: Callable[[], Awaitable[None]]) -> None:
        spec, state = self.spec, self.state
        source = QuestionSource(self.train, seed=spec.seed, shuffle=spec.data.shuffle, position=state.position)
        await self.learner.begin(folder, self._phase(), resume)
        await ready()
        if state.step == 0:
            await self.evaluate(0)
        for step in range(state.step + 1, spec.steps + 1):
            await self._step(step, source)
            state.step, state.position, state.weight_version = step, source.position, self.learner.weight_version
            await self.finish_saving(wait=False)
            if self.due(spec.checkpoint.every, step):
                await self.save(step)
        await self.finish_saving()

    def _phase(self) -> Phase:
        spec = self.spec
        updates = spec.steps * spec.learner.loss.updates_per_batch
        return Phase(
            spec.learner.optimizer, updates, spec.rollout.temperature, spec.learner.beta, spec.rollout.max_tokens
        )

    async def _step(self, step: int, source: QuestionSource) -> None:
        spec, watch, state = self.spec, Stopwatch(), self.state
        judged = await self._rollouts(step, source, watch)
        drawn = source.position - state.position
        self.progress.phase("learning")
        with watch.phase("learn"):
            judged = await self._readable(judged, step)
            trained = [g for g in judged if g.verdict is Verdict.TRAIN]
            version = self.learner.weight_version
            async with self.learning():
                learned = await self.learner.learn(
                    [g.training_group() for g in trained], batch_counts(judged, spec.learner)
                )
        self.progress.phase("syncing")
        with watch.phase("sync"):
            if learned.version != version:
                await self.sync()

        self._settle(judged, step, version, updated=not trained or learned.version != version)
        metrics = step_metrics(
            step=step,
            epoch=source.epoch,
            judged=judged,
            failed=drawn - len(judged),
            learned=learned.metrics,
            learner_version=version,
            workers_alive=self.pool.alive,
            watch=watch,
            beta=spec.learner.beta,
        )
        state.accuracy = None
        if self.due(spec.evaluation.every, step):
            metrics |= await self.evaluate(step)
        self.run.append_metrics(metrics)
        self.progress.step({k: v for k, v in metrics.items() if v is not None}, spec.steps)
        self.watch_finite(step, learned)

    async def _rollouts(self, step: int, source: QuestionSource, watch: Stopwatch) -> list[JudgedGroup]:
        """Judged groups of one step. With dynamic sampling others are drawn in place of those that teach nothing."""
        spec = self.spec
        wanted, refills = spec.rollout.questions_per_step, 0
        judged = await self._round(wanted, step, source, watch)
        if not spec.learner.loss.choices.dynamic_sampling:
            return judged
        while refills < spec.rollout.max_refills:
            missing = wanted - sum(g.verdict is Verdict.TRAIN for g in judged)
            if missing == 0:
                break
            judged += await self._round(missing, step, source, watch)
            refills += 1
        return judged

    async def _round(self, count: int, step: int, source: QuestionSource, watch: Stopwatch) -> list[JudgedGroup]:
        """Draw some questions, have them answered, and judge the answers."""
        spec = self.spec
        questions = source.draw(count)
        draws = [self.state.ledger.draw(question.key) for question in questions]
        requests = [
            RolloutRequest(question, spec.data.prompt, sample_seed(spec.seed, draw.number))
            for question, draw in zip(questions, draws, strict=True)
        ]
        sampling = Sampling(spec.rollout.group_size, spec.rollout.max_tokens, spec.rollout.temperature)
        self.progress.phase("generating")
        with watch.phase("generate"):
            answers = await self.generate(requests, sampling)
        groups: list[tuple[Draw, Group]] = []
        for draw, answer in zip(draws, answers, strict=True):
            if not isinstance(answer, Group):
                self.fail(draw, step, answer.reason, answer.detail)
                continue
            groups.append((draw, answer))
            if answer.truncated_seconds:
                self.run.append_event(
                    "truncated_clip", step=step, question=draw.key, seconds=round(answer.truncated_seconds, 3)
                )
        self.progress.phase("rewarding")
        with watch.phase("reward"):
            scores = await self.score([group for _, group in groups])
        return [judge(d, g, group_scores, spec.learner) for (d, g), group_scores in zip(groups, scores, strict=True)]

    async def _readable(self, judged: list[JudgedGroup], step: int) -> list[JudgedGroup]:
        """Have the learner read the clips; a group whose clip it cannot read is recorded as failed and left out."""
        trained = [g for g in judged if g.verdict is Verdict.TRAIN]
        unreadable = await self.learner.prepare([(g.group.question, g.group.template) for g in trained])
        lost = {trained[i].draw: problem for i, problem in unreadable.items()}
        for draw, problem in lost.items():
            self.fail(draw, step, "audio", problem)
        return [g for g in judged if g.draw not in lost]

    def _settle(self, judged: Sequence[JudgedGroup], step: int, version: int, *, updated: bool) -> None:
        """Give every group its end in the ledger and write its samples."""
        ledger = self.state.ledger
        for g in judged:
            match g.verdict:
                case Verdict.UNSCORED:
                    errors = sorted({score.error for score in g.scores if score.error})
                    self.fail(g.draw, step, "reward", "; ".join(errors))
                case Verdict.TRUNCATED:
                    self.fail(g.draw, step, "truncated", "every completion was cut at rollout.max_tokens")
                case Verdict.ZERO_VARIANCE:
                    ledger.zero_variance(g.draw)
                case Verdict.TRAIN if updated:
                    ledger.trained(g.draw)
                case Verdict.TRAIN:
                    self.fail(g.draw, step, "nonfinite", "the update was stopped: a loss or gradient was not finite")
            self.run.append_samples(
                group_samples(g.group, g.scores, g.advantages, draw=g.draw.number, step=step, learner_version=version)
            )
        ledger.check(held=())
