"""Rules and dashboard use metrics that the service exports, with their labels, and are up to date."""

import asyncio
import json
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import promql_parser
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.cluster.manifests import DEPLOY, read_yaml, walk
from support.service import service

from deploy.alerts import ALERTS
from deploy.generate import files
from orchestrator.service.api.exposition import STEP_METRICS
from orchestrator.service.observability.counters import LOOP_FAILURES

_METRIC = re.compile(r"\bearshot_[a-z0-9_]+")


def expressions() -> Iterator[str]:
    """Yield every PromQL expression of the generated files."""
    for alert in ALERTS:
        yield alert.expression
    for value in walk(json.loads((DEPLOY / "grafana" / "earshot.json").read_text(encoding="utf-8"))):
        if "expr" in value:
            yield value["expr"]


async def exported(home: Path) -> dict[str, set[str]]:
    """Return the names of the series that a service with a running job exports, and their labels."""
    LOOP_FAILURES.labels("job")
    async with service(home) as made:
        _, run = await made.running()
        run.append_metrics({"step": 1, **dict.fromkeys([name for name, _, _ in STEP_METRICS], 0.5)})
        client = made.client()
        (await client.get("/healthz")).raise_for_status()
        job = (await client.get("/v1/jobs")).json()["items"][0]["id"]
        (await client.post(f"/v1/jobs/{job}/pause")).raise_for_status()
        text = (await client.get("/metrics")).raise_for_status().text
    labels: dict[str, set[str]] = defaultdict(set)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels[sample.name] |= sample.labels.keys()
    return labels


def test_generated_files_are_up_to_date() -> None:
    for path, text in files().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run `python -m deploy.generate`"


async def check_names(home: Path) -> None:
    found = await exported(home)
    for expression in expressions():
        for name in _METRIC.findall(expression):
            assert name in found, f"{name} is not exported"
        for name, selector in re.findall(r"(earshot_\w+)\{([^}]*)\}", expression):
            assert {*re.findall(r"(\w+)=", selector)} <= found[name], expression
        names = _METRIC.findall(expression)
        for grouping in re.findall(r"\b(?:by|on) ?\(([^)]*)\)", expression):
            assert {*re.findall(r"\w+", grouping)} <= set.union(*(found[name] for name in names)), expression


def test_every_metric_is_exported_with_its_labels(tmp_path: Path) -> None:
    asyncio.run(check_names(tmp_path))


def test_every_metric_of_jobs_is_shown(tmp_path: Path) -> None:
    shown = {name for expression in expressions() for name in _METRIC.findall(expression)}
    of_jobs = {name for name, labels in asyncio.run(exported(tmp_path)).items() if {"job", "name"} <= labels}
    assert len(of_jobs) > 20
    assert of_jobs <= shown


def test_a_name_that_is_not_exported_is_found() -> None:
    assert _METRIC.findall("rate(earshot_no_such_total[5m]) > 0") == ["earshot_no_such_total"]


def test_jobs_keep_their_label() -> None:
    (prometheus,) = read_yaml(DEPLOY / "prometheus" / "prometheus.yaml")
    assert all(each["honor_labels"] for each in prometheus["scrape_configs"])


def test_the_dashboard_has_no_gaps_and_no_panel_twice() -> None:
    document = json.loads((DEPLOY / "grafana" / "earshot.json").read_text(encoding="utf-8"))
    titles = [panel["title"] for panel in document["panels"]]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in document["panels"]]
    assert len(set(titles)) == len(titles) and len(set(places)) == len(places)
    assert [panel["id"] for panel in document["panels"]] == list(range(1, len(titles) + 1))


def test_alerts_have_names_of_their_own_and_end() -> None:
    assert len({alert.name for alert in ALERTS}) == len(ALERTS)
    for alert in ALERTS:
        assert re.fullmatch(r"Earshot[A-Za-z]+", alert.name)
        assert alert.severity in ("critical", "warning")
        assert alert.summary.endswith(".")


def test_expressions_are_promql() -> None:
    for expression in expressions():
        promql_parser.parse(expression)
    for wrong in ("rate(earshot_http_requests_total[5m) > 0", "rate(earshot_http_requests_total)", "sum(a) by"):
        with pytest.raises(ValueError):
            promql_parser.parse(wrong)


def test_prometheus_takes_the_rules() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed here: the rules are parsed, and not given to Prometheus itself")
    subprocess.run([promtool, "check", "rules", DEPLOY / "prometheus" / "rules.yaml"], timeout=60, check=True)
