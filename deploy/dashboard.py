"""The Grafana dashboard. Its panels on a job's last step and events are made from the tables of the code that exports
them, so that every exported metric has a panel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.service.api.exposition import EVENTS, STEP_METRICS

_SOURCE = {"type": "prometheus", "uid": "${source}"}
_WIDTH, _HEIGHT = 8, 7
_OF_JOBS = '{job=~"$job"}'
_LEGEND = "{{name}} {{job}}"


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph over time."""

    title: str
    queries: Sequence[tuple[str, str]]
    """PromQL and legend."""
    unit: str = "short"
    stacked: bool = False


SERVICE = (
    Panel("Jobs by state", [("earshot_jobs", "{{state}}")], stacked=True),
    Panel(
        "Queue and GPUs",
        [("earshot_queue_jobs", "queued jobs"), ("earshot_queue_gpus_running", "GPUs of running jobs")],
    ),
    Panel("Waiting time of the oldest job", [("earshot_queue_oldest_seconds", "oldest")], "s"),
    Panel(
        "Requests per second",
        [
            ("sum by (status) (rate(earshot_http_requests_total[5m]))", "{{status}}"),
            ("rate(earshot_requests_refused_total[5m])", "refused"),
        ],
        "reqps",
        stacked=True,
    ),
    Panel(
        "Request duration",
        [
            (f"histogram_quantile({q}, sum by (le) (rate(earshot_http_request_seconds_bucket[5m])))", f"{q}")
            for q in (0.5, 0.99)
        ],
        "s",
    ),
    Panel("Open streams", [("earshot_http_streams", "streams")]),
    Panel(
        "Jobs submitted and commands, per hour",
        [
            ("increase(earshot_jobs_submitted_total[1h])", "submitted"),
            ("sum by (command) (increase(earshot_commands_total[1h]))", "{{command}}"),
        ],
    ),
    Panel(
        "Drivers per hour",
        [
            ("increase(earshot_drivers_started_total[1h])", "started"),
            ("increase(earshot_driver_restarts_total[1h])", "died"),
            ("increase(earshot_preemptions_total[1h])", "preempted"),
        ],
    ),
    Panel(
        "Supervisor loop",
        [
            ("rate(earshot_loop_seconds_sum[5m]) / rate(earshot_loop_seconds_count[5m])", "seconds per round"),
            ("sum by (what) (rate(earshot_loop_failures_total[5m]))", "failures per second: {{what}}"),
        ],
        "s",
    ),
)


def job_panels() -> list[Panel]:
    """Return the panels of jobs, with one line per job."""
    progress = f"100 * earshot_job_step{_OF_JOBS} / earshot_job_steps{_OF_JOBS}"
    panels = [
        Panel("Progress", [(progress, _LEGEND)], "percent"),
        Panel(
            "Rollout workers",
            [
                (f"earshot_workers{_OF_JOBS}", "{{name}} {{state}}"),
                (f"earshot_workers_target{_OF_JOBS}", "{{name}} target"),
            ],
        ),
        Panel("Driver deaths per hour", [(f"increase(earshot_job_restarts_total{_OF_JOBS}[1h])", _LEGEND)]),
    ]
    for _, name, help_text in STEP_METRICS:
        unit = "s" if name.endswith("_seconds") else "percentunit" if name.endswith("_accuracy") else "short"
        panels.append(Panel(help_text.rstrip("."), [(f"{name}{_OF_JOBS}", _LEGEND)], unit))
    for _, name, help_text in EVENTS:
        title = f"{help_text.rstrip('.')}, per hour"
        panels.append(Panel(title, [(f"increase({name}_total{_OF_JOBS}[1h])", _LEGEND)]))
    return panels


def dashboard() -> dict[str, Any]:
    """Return the dashboard in the format that Grafana imports."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, group in (("The service", SERVICE), ("Jobs", job_panels())):
        row = {"h": 1, "w": 24, "x": 0, "y": top}
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "gridPos": row, "panels": []})
        for i, panel in enumerate(group):
            position = {
                "h": _HEIGHT,
                "w": _WIDTH,
                "x": i * _WIDTH % 24,
                "y": top + 1 + i * _WIDTH // 24 * _HEIGHT,
            }
            panels.append({"id": len(panels) + 1, "gridPos": position, **_graph(panel)})
        top += 1 + -(-len(group) * _WIDTH // 24) * _HEIGHT
    return {
        "uid": "earshot",
        "title": "Earshot",
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [_source(), _jobs()]},
        "panels": panels,
    }


def _graph(panel: Panel) -> dict[str, Any]:
    custom = {"stacking": {"mode": "normal" if panel.stacked else "none"}, "fillOpacity": 20 if panel.stacked else 0}
    return {
        "type": "timeseries",
        "title": panel.title,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": custom}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + i), "datasource": _SOURCE, "expr": expression, "legendFormat": legend}
            for i, (expression, legend) in enumerate(panel.queries)
        ],
    }


def _source() -> dict[str, Any]:
    return {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _jobs() -> dict[str, Any]:
    return {
        "name": "job",
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": "label_values(earshot_job_step, job)", "refId": "jobs"},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
    }
