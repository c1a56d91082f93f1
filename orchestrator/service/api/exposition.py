"""What Prometheus is told of the jobs, made from the store and the run directories when it asks."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from orchestrator.schemas.job_state import ACTIVE, JobState
from orchestrator.service.api.principal import Principal
from orchestrator.service.api.state import Api
from orchestrator.service.store.records import JobRecord

# Of a job's last step: its metric, Prometheus' name, what it is.
STEP_METRICS = (
    ("reward/mean", "earshot_job_reward_mean", "Mean reward."),
    ("reward/accuracy", "earshot_job_reward_accuracy", "Share of right answers."),
    ("eval/accuracy", "earshot_job_eval_accuracy", "Accuracy on held-out questions."),
    ("loss/policy", "earshot_learner_loss_policy", "Policy loss."),
    ("kl/ref", "earshot_learner_kl_ref", "Divergence from the reference."),
    ("entropy", "earshot_learner_entropy", "Entropy of what is sampled, in nats."),
    ("time/step", "earshot_learner_step_seconds", "Seconds of the last step."),
    ("time/learn", "earshot_learner_learn_seconds", "Seconds of learning in the last step."),
    ("time/learner_wait", "earshot_learner_wait_seconds", "Seconds the learner waited for rollouts in the last step."),
    ("time/generate", "earshot_rollout_generate_seconds", "Seconds of generation in the last step."),
    ("time/reward", "earshot_reward_seconds", "Seconds of scoring in the last step."),
    ("time/sync", "earshot_weight_sync_seconds", "Seconds until workers had new weights in the last step."),
    ("tokens/generated_per_second", "earshot_rollout_tokens_per_second", "Tokens generated a second."),
    ("tokens/trained_per_second", "earshot_learner_tokens_per_second", "Tokens trained on a second."),
    ("staleness/mean", "earshot_rollout_staleness_mean", "Versions between sampling and learning, mean."),
    ("staleness/max", "earshot_rollout_staleness_max", "Versions between sampling and learning, greatest."),
)
# Of a run's events: their kind, Prometheus' name, what it is.
EVENTS = (
    ("worker_lost", "earshot_workers_lost", "Rollout workers that died, hung or failed."),
    ("worker_restart", "earshot_worker_restarts", "Rollout workers that were replaced."),
    ("update_late", "earshot_weight_updates_late", "Weight updates that workers had late."),
    ("update_failed", "earshot_weight_updates_failed", "Weight updates that failed on a worker."),
    ("failed_question", "earshot_questions_failed", "Questions set aside because something failed."),
    ("reward_restarted", "earshot_reward_restarts", "Reward actors that were replaced."),
    ("checkpoint", "earshot_checkpoints", "Checkpoints written."),
)
_LABELS = ("job", "name")


async def job_metrics(api: Api, principal: Principal) -> bytes:
    """In Prometheus' text format; jobs one by one only for whom they exist."""
    counts = await api.store.counts()
    jobs = await api.store.unended()
    return await asyncio.to_thread(_exposed, api, principal, counts, jobs)


def _exposed(api: Api, principal: Principal, counts: dict[JobState, int], jobs: Sequence[JobRecord]) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families([*_queue(counts, jobs), *_jobs(api, [job for job in jobs if principal.sees(job)])]))
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _queue(counts: dict[JobState, int], jobs: Sequence[JobRecord]) -> list[Metric]:
    states = GaugeMetricFamily("earshot_jobs", "Jobs by state.", labels=["state"])
    for state, count in counts.items():
        states.add_metric([state.value], count)
    queued = [job for job in jobs if job.state is JobState.QUEUED]
    waited = max((time.time() - job.created_at.timestamp() for job in queued), default=0.0)
    gpus = sum(job.gpus for job in jobs if job.state in ACTIVE)
    return [
        states,
        GaugeMetricFamily("earshot_queue_jobs", "Jobs that wait for their turn.", len(queued)),
        GaugeMetricFamily("earshot_queue_oldest_seconds", "How long the oldest of them waits.", waited),
        GaugeMetricFamily("earshot_queue_gpus_running", "GPUs that running jobs count for.", gpus),
    ]


def _jobs(api: Api, jobs: Sequence[JobRecord]) -> list[Metric]:
    active = [job for job in jobs if job.state in ACTIVE]
    step = GaugeMetricFamily("earshot_job_step", "Learner steps done.", labels=_LABELS)
    steps = GaugeMetricFamily("earshot_job_steps", "Learner steps in all.", labels=_LABELS)
    restarts = CounterMetricFamily("earshot_job_restarts", "Drivers that died and were replaced.", labels=_LABELS)
    target = GaugeMetricFamily("earshot_workers_target", "Rollout workers that are wanted.", labels=_LABELS)
    workers = GaugeMetricFamily("earshot_workers", "Rollout workers by state.", labels=[*_LABELS, "state"])
    metrics = {name: GaugeMetricFamily(to, what, labels=_LABELS) for name, to, what in STEP_METRICS}
    events = {kind: CounterMetricFamily(to, what, labels=_LABELS) for kind, to, what in EVENTS}
    for job in active:
        labels, run_dir = [job.id, job.name], Path(job.run_dir)
        last, facts = api.progress.of(run_dir), api.facts.of(run_dir)
        step.add_metric(labels, last.step if last else 0)
        steps.add_metric(labels, job.spec.get("steps", 0))
        restarts.add_metric(labels, job.restarts)
        target.add_metric(labels, facts.target or 0)
        found = [worker.state for worker in facts.workers.values()]
        for state in sorted({*found, "serving"}):
            workers.add_metric([*labels, state], found.count(state))
        for name, family in metrics.items():
            if last and name in last.metrics:
                family.add_metric(labels, last.metrics[name])
        for kind, counter in events.items():
            counter.add_metric(labels, facts.counts.get(kind, 0))
    return [step, steps, restarts, target, workers, *metrics.values(), *events.values()]
