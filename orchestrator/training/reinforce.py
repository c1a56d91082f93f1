"""The loop of reinforcement learning: take a batch of rollouts, learn, send the weights back.

Invariant: every question drawn ends in exactly one place of the ledger, within the step whose batch it is in, and the
ledger is checked before the next step. Neither audio nor weights pass through here: messages carry paths and object
references. Synchronous and asynchronous jobs are the same loop: they differ in how far ahead rollouts are begun.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from learner.phase import TrainingPhase
from orchestrator.questions.solve_rates import SolveRate
from orchestrator.run.samples import group_samples
from orchestrator.training.autoscale import Autoscaler, Observation
from orchestrator.training.batch import JudgedGroup, Verdict, batch_counts
from orchestrator.training.loop import Loop
from orchestrator.training.rollouts import Batch, Rollouts, Scorer
from orchestrator.training.step_metrics import Stopwatch, step_metrics


@dataclass(slots=True, kw_only=True)
class ReinforceLoop(Loop):
    """One job of reinforcement learning."""

    score: Scorer
    autoscaler: Autoscaler | None = None
    measured: Mapping[str, SolveRate] = field(default_factory=dict)
    """Solve rates from before the job, for its curriculum."""

    async def go(self, folder: str, resume: str | None, ready: Callable[[], Awaitable[None]]) -> None:
        spec, state = self.spec, self.state
        await self.learner.begin(folder, self._phase(), resume)
        await ready()
        if state.step == 0:
            await self.evaluate(0)
        rollouts = Rollouts(spec, self.train, state, self.generate, self.score, self.measured)
        try:
            for step in range(state.step + 1, spec.steps + 1):
                await self.control.between_steps()
                await self._step(step, rollouts)
                state.step, state.weight_version = step, self.learner.weight_version
                state.position = rollouts.source.position
                await self.finish_saving(wait=False)
                if self.due(spec.checkpoint.every, step) or self.control.checkpoint_wanted():
                    await self.save(step)
            await self.finish_saving()
        finally:
            await rollouts.stop()

    def _phase(self) -> TrainingPhase:
        spec = self.spec
        updates = spec.steps * spec.learner.loss.updates_per_batch
        return TrainingPhase(
            spec.learner.optimizer, updates, spec.rollout.temperature, spec.learner.beta, spec.rollout.max_tokens
        )

    async def _step(self, step: int, rollouts: Rollouts) -> None:
        spec, watch = self.spec, Stopwatch()
        self.progress.phase("generating")
        with watch.phase("learner_wait"):
            batch = await rollouts.batch(step)
        self._note(batch)
        self.progress.phase("learning")
        with watch.phase("learn"):
            version = self.learner.weight_version
            judged = await self._usable(batch, version)
            trained = [g for g in judged if g.verdict is Verdict.TRAIN]
            async with self.learning():
                learned = await self.learner.learn(
                    [g.training_group() for g in trained], batch_counts(judged, spec.learner)
                )
        self.progress.phase("syncing")
        with watch.phase("sync"):
            if learned.version != version:
                await self.sync()

        self._settle(judged, step, version, updated=not trained or learned.version != version)
        self.state.ledger.check(held=rollouts.held)
        rollouts.observe(judged)
        metrics = step_metrics(
            step=step,
            epoch=rollouts.source.epoch,
            batch=batch,
            judged=judged,
            learned=learned.metrics,
            learner_version=version,
            workers_alive=self.pool.alive,
            watch=watch,
            beta=spec.learner.beta,
        )
        self._autoscale(watch, rollouts)
        self.state.accuracy = None
        if self.due(spec.evaluation.every, step):
            metrics |= await self.evaluate(step)
        self.run.append_metrics(metrics)
        self.progress.step({k: v for k, v in metrics.items() if v is not None}, spec.steps)
        self.watch_finite(step, learned)

    def _autoscale(self, watch: Stopwatch, rollouts: Rollouts) -> None:
        """Ask for more rollout workers, or fewer, where the job's policy says so."""
        if self.autoscaler is None:
            return
        waited = watch.seconds["learner_wait"] / watch.total
        seen = Observation(waited, rollouts.full, self.pool.alive, self.pool.target)
        decision = self.autoscaler.decide(seen)
        if decision is not None:
            self.pool.scale(decision.count, decision.reason)

    def _note(self, batch: Batch) -> None:
        """Record what no group came of, and clips that were cut."""
        for draw, reason, detail in batch.failed:
            self.fail(draw, batch.step, reason, detail)
        for draw, seconds in batch.truncated:
            self.run.append_event("truncated_clip", step=batch.step, question=draw.key, seconds=round(seconds, 3))

    async def _usable(self, batch: Batch, version: int) -> list[JudgedGroup]:
        """The groups the step ends, less those it cannot learn from: too old, or a clip the learner cannot read."""
        judged = []
        for g in batch.judged:
            if version - g.group.weight_version > self.spec.rollout.max_staleness:
                self.state.ledger.stale(g.draw)
                batch.stale += 1
            else:
                judged.append(g)
        trained = [g for g in judged if g.verdict is Verdict.TRAIN]
        unreadable = await self.learner.prepare([(g.group.question, g.group.template) for g in trained])
        lost = {trained[i].draw: problem for i, problem in unreadable.items()}
        for draw, problem in lost.items():
            self.fail(draw, batch.step, "audio", problem)
        batch.unreadable = len(lost)
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
