"""The alerts, with the steps to take. docs/reference/alerts.md is generated from them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Alert:
    """An alerting rule."""

    name: str
    expression: str
    """PromQL."""
    minutes: int
    """Minutes that the expression must hold before the alert fires."""
    severity: str
    """`critical`: act now; `warning`: act today."""
    summary: str
    """One line, which may use Prometheus templates."""
    action: str
    """Steps to take, as Markdown on the page of the alerts."""


# `job` is the id of a job, which Prometheus keeps if it honours labels: see prometheus/prometheus.yaml.
_JOB = "{{ $labels.name }} ({{ $labels.job }})"

ALERTS = (
    Alert(
        "EarshotServiceDown",
        "absent(earshot_queue_jobs)",
        3,
        "critical",
        "The service does not answer, or rejects the token of Prometheus. Running jobs continue.",
        """Ask `/healthz`. If it responds, the token of Prometheus is the problem: `earshot token list`, and create
        another one. If not, look at the end of the service's log. Exit code 2 comes with one line that says why it
        cannot start: no token yet, another service on the data directory, a port in use. If it ends again and again,
        see [EarshotDatabaseAway](#earshotdatabaseaway).""",
    ),
    Alert(
        "EarshotDatabaseAway",
        'increase(earshot_loop_failures_total{what="database"}[5m]) > 0',
        5,
        "critical",
        "The service cannot reach its database.",
        """The service waits for its database; requests get 503, drivers continue. Check that PostgreSQL runs and has
        connections and disk space left. The service needs no attention: it continues once the database answers.""",
    ),
    Alert(
        "EarshotClusterAway",
        'increase(earshot_loop_failures_total{what="cluster"}[5m]) > 0',
        5,
        "critical",
        "The service cannot reach the Ray cluster: jobs are neither started nor supervised.",
        """Ray's dashboard does not answer, or refuses the token; `/readyz` has the reason. Running jobs keep their
        state. Check that the head exists and has memory left. If Ray's token was changed, the service needs the new
        one. A new head without the old one's jobs does no harm: the jobs recover on it.""",
    ),
    Alert(
        "EarshotJobNotLookedAfter",
        'increase(earshot_loop_failures_total{what="job"}[15m]) > 0',
        15,
        "warning",
        "The service cannot supervise one of its jobs: a damaged run directory, or a bug.",
        """The log has a line with the job's id and the error. Usually its run directory was removed or damaged by hand:
        restore it from a backup, or `earshot cancel JOB`. The other jobs are supervised.""",
    ),
    Alert(
        "EarshotLoopSlow",
        "rate(earshot_loop_seconds_sum[10m]) / rate(earshot_loop_seconds_count[10m]) > 10",
        10,
        "warning",
        "The supervisor takes more than 10 s for a round over all jobs.",
        """Drivers are started and ended late. Usually the shared storage is slow, or Ray's dashboard. Look at the panel
        *Supervisor loop* of the dashboard and at the storage's own metrics; remove old jobs (`--keep-days`).""",
    ),
    Alert(
        "EarshotServerErrors",
        'sum(rate(earshot_http_requests_total{status=~"5.."}[5m])) > 0.05 * sum(rate(earshot_http_requests_total[5m]))',
        10,
        "warning",
        "More than 5 % of the requests fail with a server error.",
        """Look for lines of level `error` in the service's log; their `request` is the `X-Request-Id` of a response.
        503 alone means the database or the cluster: see their alerts.""",
    ),
    Alert(
        "EarshotRefusals",
        "rate(earshot_requests_refused_total[10m]) > 1",
        10,
        "warning",
        "A client sends many requests without a valid token, or beyond what its role allows.",
        """`client` in the log's lines has the addresses; with an ingress, that of the ingress. Often it is a script
        with an expired token. The service looks up at most 5 invalid tokens a second for one address; block it at the
        ingress.""",
    ),
    Alert(
        "EarshotQueueStuck",
        "earshot_queue_oldest_seconds > 6 * 3600 and on() earshot_queue_gpus_running == 0",
        15,
        "warning",
        "A job has been queued for six hours, and no GPU is in use.",
        """`earshot show JOB` says why the job waits. If the cluster is smaller than it was, cancel the job or bring the
        machines back. With `--autoscaling`, see whether pods are pending: the cloud may have no GPUs, or a quota is
        used up. On a cluster without GPUs this alert only says that a job has waited.""",
    ),
    Alert(
        "EarshotDriversDie",
        "increase(earshot_driver_restarts_total[1h]) > 3",
        0,
        "warning",
        "Drivers die repeatedly.",
        """`driver.log` in the run directory and `earshot logs JOB` have the last lines. If they end in mid-sentence,
        the system killed the driver for its memory: give the head more, or lower `--max-running`.""",
    ),
    Alert(
        "EarshotJobStalled",
        # A paused job does no step either, and the two cannot be distinguished here.
        'changes(earshot_job_step[30m]) == 0 unless on() earshot_jobs{state="paused"} > 0',
        60,
        "warning",
        f"{_JOB} has done no step for more than an hour.",
        """If a step does not take that long, see `earshot logs JOB` and `earshot workers JOB`: without a worker that
        serves, the job waits for machines; with workers, `time/generate` and `time/learn` show which side hangs. Parts
        that hang are replaced after their deadlines (`rollout.limits`, `learner.timeout_seconds`): wait for these
        before you cancel. The alert is silent while any job is paused.""",
    ),
    Alert(
        "EarshotWorkersMissing",
        'earshot_workers_target > on(job, name) earshot_workers{state="serving"}',
        30,
        "warning",
        f"{_JOB} has had fewer rollout workers than its target for half an hour.",
        """`earshot workers JOB` has their states. `pending` means no room ([what to
        do](../operate/troubleshooting.md#a-worker-stays-pending)); `starting` for longer than a model takes to load
        means slow storage. Or ask for fewer: `earshot scale JOB N`.""",
    ),
    Alert(
        "EarshotWorkersDie",
        "increase(earshot_workers_lost_total[1h]) > 5",
        0,
        "warning",
        f"{_JOB} loses rollout workers repeatedly.",
        """`worker_lost` in `events.jsonl` has the causes ([what to
        do](../operate/troubleshooting.md#worker_lost-again-and-again)). If all are on one machine, drain it.""",
    ),
    Alert(
        "EarshotWeightUpdatesFail",
        "increase(earshot_weight_updates_failed_total[1h]) > 3",
        0,
        "warning",
        f"{_JOB} has rollout workers that fail to update their weights.",
        """`update_failed` in `events.jsonl` has the error. The worker is replaced each time, so training continues,
        slower. Set `rollout.weight_sync: object_store`, which works everywhere, and report the error.""",
    ),
    Alert(
        "EarshotRewardActorDies",
        "increase(earshot_reward_restarts_total[1h]) > 2",
        0,
        "warning",
        f"{_JOB} loses its reward actor repeatedly.",
        """A custom reward function uses too much memory, or hangs in a way that its deadline does not end.
        `reward_restarted` in `events.jsonl` has the cause. After `reward.max_restarts` the job ends.""",
    ),
    Alert(
        "EarshotQuestionsFail",
        "increase(earshot_questions_failed_total[1h]) > 50",
        0,
        "warning",
        f"{_JOB} skips many questions after failures.",
        """`failed_question` in `events.jsonl` has the reasons: `audio` means clips that cannot be read (is the storage
        mounted?), `prompt_too_long` the data, `retries` the workers.""",
    ),
    Alert(
        "EarshotLearnerWaits",
        "earshot_learner_wait_seconds / earshot_learner_step_seconds > 0.5",
        60,
        "warning",
        f"The learner of {_JOB} waits for rollouts more than half of the time.",
        """The learner's GPUs idle. Add rollout workers, set `rollout.max_staleness` above 0, or make completions
        shorter ([more](../operate/troubleshooting.md#the-learner-waits)).""",
    ),
)


def rules() -> dict[str, object]:
    """Return the content of a rules file for Prometheus."""
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
                            "runbook": f"docs/reference/alerts.md#{alert.name.lower()}",
                        },
                    }
                    for alert in ALERTS
                ],
            }
        ]
    }


def prometheus_rule() -> dict[str, object]:
    """Return the same rules for the Prometheus operator."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "earshot", "labels": {"app.kubernetes.io/name": "earshot"}},
        "spec": rules(),
    }
