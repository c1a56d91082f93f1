"""Figures on the pages agree with the results of the benchmarks, rounded to the digits that a page shows."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import yaml
from docs.pages import ROOT

from orchestrator.job.memory.published import PUBLISHED
from orchestrator.job.memory.rank import learner_bytes
from orchestrator.job.spec import JobSpec

RESULTS = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "benchmarks" / "results").glob("*.json"))}
PERFORMANCE = ROOT / "docs" / "develop" / "performance.md"
ACCURACY = ROOT / "docs" / "use" / "results.md"
LOSSES = ROOT / "docs" / "use" / "losses-memory-and-scale.md"
GIB = 2**30

Row = list[float]


def details(name: str) -> Any:
    return RESULTS[name]["details"]


def table(page: Path, heading: str) -> list[list[str]]:
    """Return the cells of the first table after a heading, without its head."""
    after = ("\n" + page.read_text(encoding="utf-8")).partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    assert after, f"{page.name} has no heading {heading!r}"
    rows = re.search(r"(?:^\|.*\n)+", after, re.MULTILINE)
    assert rows, f"no table after {heading!r}"
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[0].splitlines()[2:]]


def numbers(cell: str) -> list[str]:
    return re.findall(r"\d+(?:\.\d+)?", cell.replace(",", ""))


def assert_rounded(shown: list[str], values: Row, where: str) -> None:
    """Fail unless the shown numbers are the values, each rounded to the digits that are shown."""
    assert len(shown) == len(values), f"{where}: shows {shown}, the results have {values}"
    for text, value in zip(shown, values, strict=True):
        unit = 10.0 ** -len(text.partition(".")[2])
        assert abs(float(text) - value) <= unit / 2 + 1e-9, f"{where}: shows {text}, the results have {value}"


def assert_table(page: Path, heading: str, columns: slice, expected: list[Row]) -> None:
    rows = table(page, heading)
    assert len(rows) == len(expected)
    for cells, values in zip(rows, expected, strict=True):
        assert_rounded([n for cell in cells[columns] for n in numbers(cell)], values, f"{heading}: {cells}")


def _trl_ratios() -> Row:
    trl = details("learner_vs_trl")["trl"][details("learner_vs_trl")["fastest_of_trl"]]
    return [theirs / ours for theirs, ours in zip(trl["seconds"], trl["our_seconds"], strict=True)]


def _copies(carrier: str) -> Row:
    return [case["copies_per_receiver"] for case in details("weight_sync")["cases"] if case["carrier"] == carrier]


SPREAD: dict[str, Callable[[], Row]] = {
    "async_speedup": lambda: details("async_speedup")["real_ratios"],
    "demo_learns": lambda: [run["gain_points"] for run in details("demo_learns")["runs"]],
    "demo_learns_asynchronous": lambda: [run["gain_points"] for run in details("demo_learns_asynchronous")["runs"]],
    "dry_run": lambda: list(details("dry_run")["seconds"]["dry_run"].values()),
    "learner_limit": lambda: details("learner_limit")["fractions"],
    "learner_seven_billion": lambda: [
        batch["of_the_multiplication_rate"] for batch in details("learner_seven_billion")["batches"]
    ],
    "learner_shared_prefix": lambda: [case["times_faster"] for case in details("learner_shared_prefix")["cases"]],
    "learner_vs_trl": _trl_ratios,
    "pool_scale": lambda: [case["pool_milliseconds_per_group"] for case in details("pool_scale")["cases"]],
    "rollout_efficiency": lambda: details("rollout_efficiency")["ratios"],
    "service_load": lambda: [details("service_load")["job"][name] for name in ("median", "longest")],
    "service_hostile": lambda: [details("service_hostile")["all_milliseconds"][name] for name in ("median", "longest")],
    "weight_sync": lambda: _copies("shared_memory"),
    "weight_sync_gpu": lambda: details("weight_sync_gpu")["seconds"],
}
"""Figures whose minimum and maximum are the range of a benchmark."""


@pytest.mark.parametrize("name", RESULTS)
def test_headline_figures_and_ranges(name: str):
    rows = {cells[0].strip("`"): cells for cells in table(PERFORMANCE, "# Performance")}
    assert rows.keys() == RESULTS.keys()
    assert_rounded(numbers(rows[name][1]), [RESULTS[name]["value"]], name)
    values = SPREAD[name]() if name in SPREAD else []
    assert_rounded(numbers(rows[name][3]), [min(values), max(values)] if values else [], f"range of {name}")
    assert details(name).get("passed", True), f"{name} missed a bound"


def test_learner_against_trl():
    expected = [
        [
            *(median(run[name]) for name in ("seconds", "of_it_reference_forward", "our_seconds")),
            run["times"],
            run["peak_rss_mib"] / 1024,
        ]
        for run in (details("learner_vs_trl")["trl"][f"batch_size_{rows}"] for rows in (8, 16))
    ]
    assert_table(PERFORMANCE, "## `learner_vs_trl`", slice(1, None), expected)


def test_shared_prefix():
    expected = [
        [
            case["clip_seconds"],
            case["completion_tokens"],
            *(min(case["seconds"][path]) for path in ("plain", "shared")),
            case["times_faster"],
            *(case["peak_mib"][path] for path in ("plain", "shared")),
            case["memory_share"],
        ]
        for case in details("learner_shared_prefix")["cases"]
    ]
    assert_table(PERFORMANCE, "## `learner_shared_prefix`", slice(None), expected)


def test_seven_billion():
    batches = details("learner_seven_billion")["batches"]
    expected = [
        [
            batch["micro_batch_tokens"],
            *(of(batch["seconds"]) for of in (median, min, max)),
            batch["achieved_tflop_per_second"],
            batch["of_the_multiplication_rate"],
            batch["peak_gib"],
        ]
        for batch in batches
    ]
    assert_table(PERFORMANCE, "## `learner_seven_billion`", slice(None), expected)
    # The page for users has the medians only.
    for cells, batch in zip(table(ACCURACY, "## A learner step at 7B sizes"), batches, strict=True):
        shown = [numbers(cells[0])[0], numbers(cells[2])[0], numbers(cells[3])[0]]
        assert_rounded(shown, [batch["micro_batch_tokens"], median(batch["seconds"]), batch["peak_gib"]], str(cells))


def test_weight_sync():
    cases: dict[tuple[int, str], Row] = {}
    for case in details("weight_sync")["cases"]:
        cases.setdefault((case["parameters"], case["carrier"]), []).append(case["copies_per_receiver"])
    assert_table(PERFORMANCE, "## `weight_sync`", slice(2, None), list(cases.values()))


def test_pool_scale():
    names = ("workers", "groups_per_second", "pool_milliseconds_per_group", "efficiency", "memory_mib")
    expected = [[case[name] for name in names] for case in details("pool_scale")["cases"]]
    assert_table(PERFORMANCE, "## `pool_scale`", slice(None), expected)


def test_dry_run():
    seconds = details("dry_run")["seconds"]
    expected = [
        [seconds[name]["cold"], seconds[name]["warm"]] for name in ("dry_run", "data_check", "data_check_decode")
    ]
    assert_table(PERFORMANCE, "## `dry_run`", slice(1, None), expected)


def test_service_load():
    found = details("service_load")
    kinds = ("job", "list", "list_of_an_owner_in_a_state", "metrics", "metrics_of_one_name")
    expected = [[found[kind][name] for name in ("median", "p99", "longest")] for kind in kinds]
    assert_table(PERFORMANCE, "## `service_load`", slice(1, None), expected)


def test_the_demo():
    expected = [
        [
            run["seed"],
            *(100 * run[name] for name in ("baseline_accuracy", "final_accuracy")),
            run["gain_points"],
            100 * run["silence_accuracy"],
            run["seconds"],
            run["base_seconds"],
        ]
        for run in details("demo_learns")["runs"]
    ]
    assert_table(ACCURACY, "## The demo", slice(None), expected)


def test_memory_of_a_rank():
    """The page has what `--dry-run` computes for a job with these keys."""
    sizes, rows = PUBLISHED["Qwen2-Audio-7B-Instruct"], table(LOSSES, "## What fits where")
    assert rows
    for settings, shown in rows:
        learner = yaml.safe_load(settings.strip("`"))["learner"] | {"dtype": "bfloat16"}
        job = JobSpec.model_validate({"model": {"path": "m"}, "data": {"train": "t"}, "steps": 1, "learner": learner})
        assert_rounded(numbers(shown), [learner_bytes(job, sizes) / GIB], settings)


def test_service_hostile():
    found = details("service_hostile")
    kinds = ("quiet_milliseconds", "all_milliseconds")
    expected = [[found[kind][name] for name in ("median", "p99", "longest")] for kind in kinds]
    assert_table(PERFORMANCE, "## `service_hostile`", slice(1, None), expected)
    said = PERFORMANCE.read_text(encoding="utf-8").partition("## `service_hostile`")[2].partition("\n## ")[0]
    for name in ("before", "most", "most_of_processes_that_check_jobs"):
        assert f"{found['memory_mib'][name]:.0f} MiB" in said
    assert f"{found['requests']:,} hostile requests, {found['hostile_per_second']:.0f} per second" in said
