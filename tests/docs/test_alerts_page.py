"""docs/reference/alerts.md is what docs/generate_alerts.py writes from deploy/alerts.py, and every alert has steps."""

import re
import runpy
from pathlib import Path

import yaml

from deploy.alerts import ALERTS

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "reference" / "alerts.md"


def test_the_page_is_up_to_date():
    page = runpy.run_path(str(DOCS / "generate_alerts.py"))["page"]()
    assert PAGE.read_text(encoding="utf-8") == page, "out of date: run `.venv/bin/python docs/generate_alerts.py`"


def test_every_alert_has_steps_to_take():
    assert all(len(" ".join(alert.action.split())) > 100 for alert in ALERTS)


def test_every_runbook_is_a_section_of_the_page():
    sections = set(re.findall(r"^## (Earshot\w+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    rules = yaml.safe_load((DOCS.parent / "deploy" / "prometheus" / "rules.yaml").read_text(encoding="utf-8"))
    linked = {rule["annotations"]["runbook"] for group in rules["groups"] for rule in group["rules"]}
    assert linked == {f"docs/reference/alerts.md#{name.lower()}" for name in sections}
