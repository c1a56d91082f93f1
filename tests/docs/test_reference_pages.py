"""docs/reference/metrics.md, events.md and problems.md are generated, and their tables are complete."""

import ast
import json
import re
import runpy
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from learner.messages import StepStats
from learner.metrics import step_metrics
from orchestrator.run.events import EventKind
from orchestrator.run.metrics import COLUMNS, OTHERS
from reward.registry import NAMES as REWARDS

ROOT = Path(__file__).parents[2]
TABLE = {metric.name for metric in (*COLUMNS, *OTHERS)}
NOT_METRICS = {"random/torch"}
APPENDING = {"append_event", "_event", "_on_event", "on_event"}


def test_the_pages_are_up_to_date():
    pages = runpy.run_path(str(ROOT / "docs" / "generate_reference.py"))["pages"]()
    assert len(pages) == 3
    for file, text in pages.items():
        assert file.read_text(encoding="utf-8") == text, (
            "out of date: run `.venv/bin/python docs/generate_reference.py`"
        )


def _trees(*packages: str) -> Iterator[tuple[Path, ast.Module]]:
    for package in packages:
        for file in sorted((ROOT / package).rglob("*.py")):
            yield file, ast.parse(file.read_text(encoding="utf-8"))


def _known(name: str) -> bool:
    return name in TABLE or name.removeprefix("reward/") in REWARDS


def test_the_table_of_metrics_names_each_once():
    names = [metric.name for metric in (*COLUMNS, *OTHERS)]
    assert len(names) == len(set(names))
    assert [metric.name for metric in OTHERS] == sorted(metric.name for metric in OTHERS)


def test_every_metric_of_a_run_is_in_the_table():
    run = ROOT / "tests" / "compatibility" / "version_0_1" / "run" / "metrics.jsonl"
    lines = [json.loads(line) for line in run.read_text(encoding="utf-8").splitlines()]
    assert lines
    assert {name for line in lines for name in line if not _known(name)} == set()
    assert step_metrics([StepStats()]).keys() <= TABLE


def test_every_metric_that_the_code_writes_is_in_the_table_and_the_other_way_round():
    texts: set[str] = set()
    prefixes: set[str] = set()
    for _, tree in _trees("learner", "orchestrator/training"):
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.add(node.value)
            elif isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
                prefixes.add(str(node.values[0].value))
    written = {text for text in texts if re.fullmatch(r"[a-z]+/[a-z_]+", text)} - NOT_METRICS
    assert {name for name in written if not _known(name)} == set()

    def writable(name: str) -> bool:
        prefix, _, last = name.partition("/")
        made = f"{prefix}/" in prefixes and (last in texts or last in REWARDS or last == "NAME")
        return name in texts or made

    assert {name for name in TABLE if not writable(name)} == set()


def _kind(node: ast.expr) -> EventKind | None:
    """Return the kind that an argument names; None for a variable."""
    if isinstance(node, ast.Constant):
        return EventKind(node.value)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "EventKind":
        return EventKind[node.attr]
    return None


def test_every_event_that_the_code_writes_has_a_kind_with_its_fields():
    written: dict[EventKind, set[str]] = defaultdict(set)
    open_ended: set[EventKind] = set()
    for file, tree in _trees("orchestrator", "rollout_workers", "learner", "reward"):
        for node in ast.walk(tree):
            name = getattr(node.func, "attr", None) if isinstance(node, ast.Call) else None
            if name not in APPENDING or not node.args:
                continue
            kind = _kind(node.args[0])
            assert kind is not None, f"{file}:{node.lineno}"
            # The pool cannot import the orchestrator: only there kinds are text.
            assert isinstance(node.args[0], ast.Attribute) or "rollout_workers" in file.parts, f"{file}:{node.lineno}"
            written[kind] |= {keyword.arg for keyword in node.keywords if keyword.arg is not None}
            if any(keyword.arg is None for keyword in node.keywords):
                open_ended.add(kind)
    assert {kind for kind in EventKind if kind not in written} == set()
    for kind, fields in written.items():
        assert fields <= kind.fields.keys(), kind
        assert kind in open_ended or fields == kind.fields.keys(), kind
