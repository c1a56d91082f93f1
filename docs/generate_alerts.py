"""Write docs/reference/alerts.md from the alerts in deploy/alerts.py: `python docs/generate_alerts.py`."""

import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT))  # `deploy` is not installed

from deploy.alerts import ALERTS, Alert  # noqa: E402

PAGE = ROOT / "docs" / "reference" / "alerts.md"

INTRODUCTION = """\
# Alerts

<!-- Written by docs/generate_alerts.py from deploy/alerts.py. Change the alerts there, then run
`.venv/bin/python docs/generate_alerts.py` and `.venv/bin/python -m deploy.generate`. -->

`deploy/prometheus/rules.yaml` has these rules for Prometheus, and `deploy/kuberay/monitoring/prometheus-rule.yaml` for
its operator. They need the service's `/metrics`, with a token of role `monitor`, and `honor_labels: true`
since `job` is the id of a job. *critical*: act now; *warning*: act today. The annotation `runbook` of an alert names
its section here. [Troubleshooting](../operate/troubleshooting.md) goes by the symptoms of one job.
"""


def page() -> str:
    """Return the page as Markdown."""
    return INTRODUCTION + "".join(map(_section, ALERTS))


def _section(alert: Alert) -> str:
    summary = alert.summary.replace("{{ $labels.name }} ({{ $labels.job }})", "a job")
    held = f"fires after {alert.minutes} minutes of" if alert.minutes else "fires at once on"
    steps = textwrap.fill(" ".join(alert.action.split()), 120, break_long_words=False, break_on_hyphens=False)
    return (
        f"\n## {alert.name}\n\n{summary[0].upper()}{summary[1:]}\n\nSeverity *{alert.severity}*, {held}:\n\n"
        f"```promql\n{alert.expression}\n```\n\n{steps}\n"
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
