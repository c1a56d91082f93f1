"""Reinforcement learning: one step from question to weight update, and back to the rollout workers.

One step, top to bottom. The first four parts may run some steps ahead of the learner (`rollout.max_staleness`):

1. Draw: `rollouts.py` takes questions from `orchestrator/questions/source.py` and numbers them in the ledger.
2. Generate: `RolloutPool.generate` (`rollout_workers/pool/pool.py`) queues a request per question; the dispatcher
   (`pool/dispatcher.py`) gives it to the least loaded worker, and `worker/handle.py` calls that worker's Ray actor.
   `worker/worker.py` reads the clip, and vLLM (`engine/engine.py`) samples the G completions of a group.
3. Reward: the reward actor (`reward/actor.py`) scores each completion.
4. Judge: `batch.py` turns rewards into advantages and decides which groups are trained on.
5. Learn: `LearnerGroup.learn` (`learner/group.py`) has all ranks take the optimizer steps of the batch.
6. Publish: `LearnerGroup.publish` makes the weights available, and `RolloutPool.update` (`pool/weight_keeper.py`) has
   the workers take them: by a carrier of `rollout_workers/weight_sync/`, through `worker/worker.py`, into
   `engine/transfer.py`.
7. Record: every draw gets its end in the ledger, every completion a line in `samples.jsonl`, the step a line in
   `metrics.jsonl`.

Invariant: every question drawn ends in exactly one place of the ledger, within the step whose batch it is in, and the
ledger is checked before the next step. Neither audio nor weights pass through here: messages carry paths and object
references. Synchronous and asynchronous jobs share this loop: they differ in how far ahead rollouts start.
"""

from collections.abc import Sequence

from learner.messages import PhaseSettings
from orchestrator.questions.source import Source
from orchestrator.run.events import EventKind
from orchestrator.run.samples import group_samples
from orchestrator.training.autoscale import Autoscaler, Observation
from orchestrator.training.batch import JudgedGroup, Verdict, batch_counts
from orchestrator.training.loop import NONFINITE_DETAIL, Parts, TrainingLoop
from orchestrator.training.rollouts import Batch, Rollouts
from orchestrator.training.step_metrics import Stopwatch, step_metrics
from protocol.calls import ScoreGroups


class ReinforceLoop(TrainingLoop):
    """The steps of a reinforcement-learning job."""

    def __init__(self, parts: Parts, score: ScoreGroups) -> None:
        super().__init__(parts)
        spec, state = parts.spec, parts.state
        self.rollouts = Rollouts(spec, parts.train, state, parts.pool.generate, score, parts.measured)
        section = spec.rollout.autoscale
        self._autoscaler = None if section is None else Autoscaler(section.min, section.max)

    @property
    def source(self) -> Source:
        return self.rollouts.source

    def phase(self) -> PhaseSettings:
        spec = self.spec
        updates = spec.steps * spec.learner.loss.updates_per_batch
        return PhaseSettings(
            spec.learner.optimizer, updates, spec.rollout.temperature, spec.learner.beta, spec.rollout.max_tokens
        )

    async def close(self) -> None:
        await self.rollouts.stop()

    async def run_step(self, step: int) -> None:
        watch = Stopwatch()
        # Draw, generate, reward, judge: for this step, and for the steps that may start ahead.
        self.progress.phase("generating")
        await self.gpus.generating()
        with watch.phase("learner_wait"):
            batch = await self.rollouts.batch(step)
        self._record_failures(batch)

        # Learn.
        self.progress.phase("learning")
        with watch.phase("learn"):
            version = self.learner.weight_version
            groups = await self._usable_groups(batch, version)
            trained = [g.training_group() for g in groups if g.verdict is Verdict.TRAIN]
            await self.gpus.learning()
            learned = await self.learner.learn(trained, batch_counts(groups, self.spec.learner))

        # Publish. Without a trained group the weights are those that the workers have.
        self.progress.phase("syncing")
        with watch.phase("sync"):
            if learned.version != version:
                await self.sync_weights()

        # Record.
        self._record_groups(groups, step, version, updated=not trained or learned.version != version)
        self.state.ledger.check(held=self.rollouts.held)
        self.rollouts.observe(groups)
        metrics = step_metrics(
            step=step,
            epoch=self.source.epoch,
            batch=batch,
            judged=groups,
            learned=learned.metrics,
            learner_version=version,
            workers_alive=self.pool.alive,
            watch=watch,
            beta=self.spec.learner.beta,
        )
        self._autoscale(watch)
        await self.record_step(step, metrics, learned)

    async def _usable_groups(self, batch: Batch, version: int) -> list[JudgedGroup]:
        """Return the groups of a batch except stale ones, and those whose clip a learner rank cannot read."""
        fresh = []
        for g in batch.judged:
            if version - g.group.weight_version > self.spec.rollout.max_staleness:
                self.state.ledger.stale(g.draw)
                batch.stale += 1
            else:
                fresh.append(g)
        trained = [g for g in fresh if g.verdict is Verdict.TRAIN]
        unreadable = await self.learner.prepare([(g.group.question, g.group.template) for g in trained])
        failed = {trained[i].draw: problem for i, problem in unreadable.items()}
        for draw, problem in failed.items():
            self.record_failure(draw, batch.step, "audio", problem)
        batch.unreadable = len(failed)
        return [g for g in fresh if g.draw not in failed]

    def _record_failures(self, batch: Batch) -> None:
        """Record the questions of a batch without a group, and truncated clips."""
        for draw, reason, detail in batch.failed:
            self.record_failure(draw, batch.step, reason, detail)
        for draw, seconds in batch.truncated:
            self.run_dir.append_event(
                EventKind.TRUNCATED_CLIP, step=batch.step, question=draw.key, seconds=round(seconds, 3)
            )

    def _record_groups(self, groups: Sequence[JudgedGroup], step: int, version: int, *, updated: bool) -> None:
        """Give every group its end in the ledger, and write its samples."""
        ledger = self.state.ledger
        for g in groups:
            match g.verdict:
                case Verdict.UNSCORED:
                    errors = sorted({score.error for score in g.scores if score.error})
                    self.record_failure(g.draw, step, "reward", "; ".join(errors))
                case Verdict.TRUNCATED:
                    detail = "every completion was truncated at rollout.max_tokens"
                    self.record_failure(g.draw, step, "truncated", detail)
                case Verdict.ZERO_VARIANCE:
                    ledger.zero_variance(g.draw)
                case Verdict.TRAIN if updated:
                    ledger.trained(g.draw)
                case Verdict.TRAIN:
                    self.record_failure(g.draw, step, "nonfinite", NONFINITE_DETAIL)
            self.run_dir.append_samples(
                group_samples(g.group, g.scores, g.advantages, draw=g.draw.number, step=step, learner_version=version)
            )

    def _autoscale(self, watch: Stopwatch) -> None:
        """Set another number of rollout workers, if the job's autoscaler decides so."""
        if self._autoscaler is None:
            return
        waited = watch.seconds["learner_wait"] / watch.total
        target = self.pool.target
        requested = target == self.control.requested_workers
        observation = Observation(waited, self.rollouts.full, self.pool.alive, target, requested)
        decision = self._autoscaler.decide(observation)
        if decision is not None:
            self.pool.scale(decision.count, decision.reason)
