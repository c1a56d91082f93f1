"""Prometheus metrics of jobs, computed from the store and the run directories for each scrape."""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from orchestrator.run.events import EventKind
from orchestrator.schemas.job_state import JobState
from orchestrator.service.api.principal import Principal
from orchestrator.service.api.state import ApiContext
from orchestrator.service.store.records import JobRecord
from orchestrator.service.telemetry.runs_now import RunNow

# Metrics of a job's last step: name in metrics.jsonl, Prometheus name, help text.
STEP_METRICS = (
    ("reward/mean", "earshot_job_reward_mean", "Mean reward."),
    ("reward/accuracy", "earshot_job_reward_accuracy", "Fraction of correct answers."),
    ("eval/accuracy", "earshot_job_eval_accuracy", "Accuracy on held-out questions."),
    ("loss/policy", "earshot_learner_loss_policy", "Policy loss."),
    ("kl/ref", "earshot_learner_kl_ref", "KL divergence from the reference model."),
    ("entropy", "earshot_learner_entropy", "Entropy of the sampling distribution, in nats."),
    ("time/step", "earshot_learner_step_seconds", "Duration of the last step, in seconds."),
    ("time/learn", "earshot_learner_learn_seconds", "Learning time in the last step, in seconds."),
    ("time/learner_wait", "earshot_learner_wait_seconds", "Wait for rollouts in the last step, in seconds."),
    ("time/generate", "earshot_rollout_generate_seconds", "Generation time in the last step, in seconds."),
    ("time/reward", "earshot_reward_seconds", "Scoring time in the last step, in seconds."),
    ("time/sync", "earshot_weight_sync_seconds", "Weight update time in the last step, in seconds."),
    ("tokens/generated_per_second", "earshot_rollout_tokens_per_second", "Tokens generated per second."),
    ("tokens/trained_per_second", "earshot_learner_tokens_per_second", "Tokens trained on per second."),
    ("staleness/mean", "earshot_rollout_staleness_mean", "Mean staleness of the last step, in weight versions."),
    ("staleness/max", "earshot_rollout_staleness_max", "Maximum staleness in the last step, in weight versions."),
)
# Events of a run that are counted: kind, Prometheus name, help text.
EVENTS = (
    (EventKind.WORKER_LOST, "earshot_workers_lost", "Rollout workers that died, hung or failed."),
    (EventKind.WORKER_RESTART, "earshot_worker_restarts", "Rollout workers that were replaced."),
    (EventKind.UPDATE_LATE, "earshot_weight_updates_late", "Weight updates that reached a worker late."),
    (EventKind.UPDATE_FAILED, "earshot_weight_updates_failed", "Weight updates that failed on a worker."),
    (EventKind.FAILED_QUESTION, "earshot_questions_failed", "Questions skipped after a failure."),
    (EventKind.REWARD_RESTARTED, "earshot_reward_restarts", "Reward actors that were replaced."),
    (EventKind.CHECKPOINT, "earshot_checkpoints", "Checkpoints written."),
)
_LABELS = ("job", "name")


async def job_metrics(context: ApiContext, principal: Principal) -> bytes:
    """Return the metrics in Prometheus' text format. Single jobs are included only if the principal can see them."""
    counts, oldest = await context.store.counts(), await context.store.oldest_queued_at()
    active = await context.store.active()
    measured = [job for job in active if principal.can_measure(job)]
    runs = await context.runs.of(Path(job.run_dir) for job in measured)
    queue = _queue(counts, oldest, sum(job.gpus for job in active))
    return await asyncio.to_thread(_exposed, queue, measured, runs)


def _exposed(queue: Sequence[Metric], active: Sequence[JobRecord], runs: Mapping[Path, RunNow]) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families([*queue, *_jobs(active, runs)]))
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _queue(counts: Mapping[JobState, int], oldest: datetime | None, gpus: float) -> list[Metric]:
    states = GaugeMetricFamily("earshot_jobs", "Jobs by state.", labels=["state"])
    for state, count in counts.items():
        states.add_metric([state.value], count)
    waited = 0.0 if oldest is None else time.time() - oldest.timestamp()
    return [
        states,
        GaugeMetricFamily("earshot_queue_jobs", "Jobs waiting in the queue.", counts[JobState.QUEUED]),
        GaugeMetricFamily("earshot_queue_oldest_seconds", "Wait of the oldest queued job, in seconds.", waited),
        GaugeMetricFamily("earshot_queue_gpus_running", "GPUs allocated to running jobs.", gpus),
    ]


def _jobs(active: Sequence[JobRecord], runs: Mapping[Path, RunNow]) -> list[Metric]:
    step = GaugeMetricFamily("earshot_job_step", "Learner steps completed.", labels=_LABELS)
    steps = GaugeMetricFamily("earshot_job_steps", "Learner steps in total.", labels=_LABELS)
    restarts = CounterMetricFamily("earshot_job_restarts", "Drivers that died and were replaced.", labels=_LABELS)
    target = GaugeMetricFamily("earshot_workers_target", "Target number of rollout workers.", labels=_LABELS)
    workers = GaugeMetricFamily("earshot_workers", "Rollout workers by state.", labels=[*_LABELS, "state"])
    metrics = {name: GaugeMetricFamily(to, what, labels=_LABELS) for name, to, what in STEP_METRICS}
    events = {kind: CounterMetricFamily(to, what, labels=_LABELS) for kind, to, what in EVENTS}
    for job in active:
        labels, run = [job.id, job.name], runs[Path(job.run_dir)]
        last, history = run.last, run.history
        step.add_metric(labels, last.step if last else 0)
        steps.add_metric(labels, job.spec.get("steps", 0))
        restarts.add_metric(labels, job.restarts)
        target.add_metric(labels, history.target or 0)
        found = [worker.state for worker in history.workers.values()]
        for state in sorted({*found, "serving"}):
            workers.add_metric([*labels, state], found.count(state))
        for name, family in metrics.items():
            if last and name in last.metrics:
                family.add_metric(labels, last.metrics[name])
        for kind, counter in events.items():
            counter.add_metric(labels, history.counts.get(kind, 0))
    return [step, steps, restarts, target, workers, *metrics.values(), *events.values()]
