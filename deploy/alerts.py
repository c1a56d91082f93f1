"""What is alerted on. Each alert has a section of its name in docs/operations.md that says what to do."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Alert:
    """One rule."""

    name: str
    expression: str
    """PromQL."""
    minutes: int
    """It has to hold for so long."""
    severity: str
    """`critical`: somebody looks now; `warning`: somebody looks today."""
    summary: str
    """One line; may use Prometheus' templates."""


# `job` is the id of a job, which Prometheus keeps where it is told to honour labels: see prometheus/prometheus.yaml.
_JOB = "{{ $labels.name }} ({{ $labels.job }})"

ALERTS = (
    Alert(
        "EarshotServiceDown",
        "absent(earshot_queue_jobs)",
        3,
        "critical",
        "The service does not answer, or takes no token from Prometheus. Jobs that run go on.",
    ),
    Alert(
        "EarshotDatabaseAway",
        'increase(earshot_loop_failures_total{what="database"}[5m]) > 0',
        5,
        "critical",
        "The service cannot reach its database.",
    ),
    Alert(
        "EarshotClusterAway",
        'increase(earshot_loop_failures_total{what="cluster"}[5m]) > 0',
        5,
        "critical",
        "The service cannot reach the Ray cluster: no job is started or looked after.",
    ),
    Alert(
        "EarshotJobNotLookedAfter",
        'increase(earshot_loop_failures_total{what="job"}[15m]) > 0',
        15,
        "warning",
        "The service cannot deal with one of its jobs: a damaged run directory, or a bug.",
    ),
    Alert(
        "EarshotLoopSlow",
        "rate(earshot_loop_seconds_sum[10m]) / rate(earshot_loop_seconds_count[10m]) > 10",
        10,
        "warning",
        "A round over all jobs takes the service more than 10 s.",
    ),
    Alert(
        "EarshotServerErrors",
        'sum(rate(earshot_http_requests_total{status=~"5.."}[5m])) > 0.05 * sum(rate(earshot_http_requests_total[5m]))',
        10,
        "warning",
        "More than one request in twenty fails on the service's side.",
    ),
    Alert(
        "EarshotRefusals",
        "rate(earshot_requests_refused_total[10m]) > 1",
        10,
        "warning",
        "Somebody asks again and again without a valid token, or for more than their role allows.",
    ),
    Alert(
        "EarshotQueueStuck",
        "earshot_queue_oldest_seconds > 6 * 3600 and on() earshot_queue_gpus_running == 0",
        15,
        "warning",
        "A job has waited for six hours, and no GPU is at work.",
    ),
    Alert(
        "EarshotDriversDie",
        "increase(earshot_driver_restarts_total[1h]) > 3",
        0,
        "warning",
        "Drivers die again and again.",
    ),
    Alert(
        "EarshotJobStalled",
        # A job that is paused on purpose does no step either, and the two cannot be told apart here.
        'changes(earshot_job_step[30m]) == 0 unless on() earshot_jobs{state="paused"} > 0',
        60,
        "warning",
        f"{_JOB} has done no step for more than an hour.",
    ),
    Alert(
        "EarshotWorkersMissing",
        'earshot_workers_target > on(job, name) earshot_workers{state="serving"}',
        30,
        "warning",
        f"{_JOB} has had fewer rollout workers than it wants for half an hour.",
    ),
    Alert(
        "EarshotWorkersDie",
        "increase(earshot_workers_lost_total[1h]) > 5",
        0,
        "warning",
        f"{_JOB} loses rollout workers again and again.",
    ),
    Alert(
        "EarshotWeightUpdatesFail",
        "increase(earshot_weight_updates_failed_total[1h]) > 3",
        0,
        "warning",
        f"{_JOB} has workers that cannot take new weights.",
    ),
    Alert(
        "EarshotRewardActorDies",
        "increase(earshot_reward_restarts_total[1h]) > 2",
        0,
        "warning",
        f"{_JOB} loses its reward actor again and again.",
    ),
    Alert(
        "EarshotQuestionsFail",
        "increase(earshot_questions_failed_total[1h]) > 50",
        0,
        "warning",
        f"{_JOB} sets many questions aside because something failed.",
    ),
    Alert(
        "EarshotLearnerWaits",
        "earshot_learner_wait_seconds / earshot_learner_step_seconds > 0.5",
        60,
        "warning",
        f"The learner of {_JOB} waits for rollouts more than half of its time.",
    ),
)


def rules() -> dict[str, object]:
    """A file of rules as Prometheus reads it."""
    return {
        "groups": [
            {
                "name": "earshot",
                "rules": [
                    {
                        "alert": alert.name,
                        "expr": alert.expression,
                        "for": f"{alert.minutes}m",
                        "labels": {"severity": alert.severity},
                        "annotations": {
                            "summary": alert.summary,
                            "runbook": f"docs/operations.md#{alert.name.lower()}",
                        },
                    }
                    for alert in ALERTS
                ],
            }
        ]
    }


def prometheus_rule() -> dict[str, object]:
    """The same for Prometheus' operator."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "earshot", "labels": {"app.kubernetes.io/name": "earshot"}},
        "spec": rules(),
    }
