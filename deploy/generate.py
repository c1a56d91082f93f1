"""Writes what follows from the code and from other manifests: `python -m deploy.generate`.

A test compares the files with what this module would write.
"""

import json
from pathlib import Path

import yaml

from deploy.alerts import prometheus_rule, rules
from deploy.dashboard import dashboard
from deploy.rayjob import rayjob

HERE = Path(__file__).parent
_NOTE = "# Written by `python -m deploy.generate` from {}. Change that.\n"


def files() -> dict[Path, str]:
    """Every generated file and its text."""
    return {
        HERE / "prometheus" / "rules.yaml": _yaml(rules(), "deploy/alerts.py"),
        HERE / "kuberay" / "monitoring" / "prometheus-rule.yaml": _yaml(prometheus_rule(), "deploy/alerts.py"),
        HERE / "kuberay" / "rayjob" / "rayjob.yaml": _yaml(rayjob(), "base/raycluster.yaml and deploy/rayjob.py"),
        HERE / "grafana" / "earshot.json": json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n",
    }


def _yaml(value: object, source: str) -> str:
    return _NOTE.format(source) + yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120)


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
