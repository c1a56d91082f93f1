"""Print the results of commands: as JSON, or as tables for a terminal."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console

from audio_qa.errors import one_line
from audio_qa.scoring.score import GROUPINGS
from orchestrator.display.table import Facts, Table, figure, output_console, text
from orchestrator.display.table import show as print_parts
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import dump_spec

_LONGEST_NAME = 200
_SHORTEST = 0.1
"""Shortest time that a plan shows as a number, in seconds or hours."""


def print_result(result: dict[str, Any], as_json: bool, show: Callable[[dict[str, Any], Console], None]) -> None:
    """Print a result to stdout: as one JSON document, or with `show`."""
    if as_json:
        print(json.dumps(result))
    else:
        show(result, output_console())


def show_plan(planned: dict[str, Any], console: Console) -> None:
    """Print a plan as a table, what is missing for it, and the resolved job file."""
    table = Facts(title=f"Plan of {_name(planned['name'])}")
    for key in (
        "model",
        "parameters",
        "training_questions",
        "evaluation_questions",
        "steps",
        "completions_per_step",
        "rollout_workers",
        "learner_ranks",
        "reference_model",
        "gpus",
    ):
        value = planned[key]
        table.add(key.replace("_", " "), "to be filled in" if value is None else _plan_text(value))
    for split, source in planned["data"].items():
        left_out = ", ".join(f"{n:,} {kind.replace('_', ' ')}" for kind, n in source["left_out"].items())
        version = f"{source['format']} {source['version']}".strip()
        table.add(f"{split} file", f"{version}; left out: {left_out}" if left_out else version)
    for part, gib in planned["memory_gib"].items():
        own = planned["memory_parts_gib"]["activations"]
        more = f", {own} of them for activations" if part == "learner_rank" and gib else ""
        table.add(f"memory of a {part.replace('_', ' ')}", f"{gib} GiB{more}")
    for part, gib in planned["cpu_memory_gib"].items():
        if gib:
            table.add(f"CPU memory of a {part.replace('_', ' ')}", f"{gib} GiB")
    if (update := planned["weight_update"]) is not None:
        table.add("a weight update", f"{update['gib']} GiB {update['way']}")
    room = planned["checkpoint_gib"]
    if room["most"]:
        table.add("checkpoints", f"at most {room['most']} of {room['each']} GiB, {room['total']} GiB in all")
    _add_time(planned["time"], table)
    print_parts(console, table)
    for key, name in planned["to_fill_in"].items():
        print_parts(console, f"To be filled in: {key}, {name}. The plan uses the published figures.")
    for warning in planned["memory_warnings"]:
        print_parts(console, f"Does not fit: {warning}.")
    for warning in [*planned["disk_warnings"], *planned["device_warnings"], *planned["precision_warnings"]]:
        print_parts(console, f"Warning: {warning}.")
    for assumption in (planned["time"] or {}).get("assumptions", ()):
        print_parts(console, f"Time: {assumption}.")
    print_parts(console, dump_spec(JobSpec.model_validate(planned["job"])))


def _plan_text(value: bool | float | str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return _name(value) if isinstance(value, str) else f"{value:,}"


def _add_time(time: dict[str, Any] | None, table: Facts) -> None:
    if time is None:
        table.add("time", "not estimated on CPUs")
        return
    rows = (("step_seconds", "a step", "s"), ("evaluation_seconds", "an evaluation", "s"), ("hours", "the job", "h"))
    for key, of_what, unit in rows:
        if time[key] is not None:
            low, high = time[key]
            span = f"{low} to {high} {unit}" if high >= _SHORTEST else f"less than {_SHORTEST} {unit}"
            table.add(f"time of {of_what}", f"{span}, an estimate")


def show_evaluation(result: Mapping[str, Any], console: Console) -> None:
    """Print an evaluation as a table: in total and by group; then its benchmark's scores."""
    columns = {"audio": 6, "silence": 5, "shuffled": 4, "chance": 2, "questions": 3, "failed": 1}
    figures = (figure(name, leaves, right=True) for name, leaves in columns.items())
    table = Table(text(""), *figures, title=f"Accuracy of {_name(result['model'])}")
    table.add("all", *_figures(result))
    for grouping in GROUPINGS:
        rows = [(name, row) for name, row in result[grouping].items() if name != "all"]
        if rows:
            table.add(grouping.removeprefix("by_").replace("_", "-"), style="bold")
        for name, row in rows:
            table.add(_name(name), *_figures(row))
    print_parts(console, table)
    _show_problems(result, console)
    if result["scores"] is None:
        console.print("Accuracy and scores are not reported: the questions have no answers.", highlight=False)
    else:
        show_scores(result, console)


def _show_problems(result: Mapping[str, Any], console: Console) -> None:
    """Print why questions could not be asked, and what was truncated."""
    # A result of an earlier version of Earshot has fewer keys.
    if result.get("failed_reasons"):
        reasons = ", ".join(f"{reason} {count}" for reason, count in result["failed_reasons"].items())
        counted = "have no prediction" if result["scores"] is None else "count as wrong"
        console.print(f"{result['failed']} questions could not be asked and {counted}: {reasons}.", highlight=False)
    for control, count in result.get("failed_in_control", {}).items():
        console.print(
            f"{count} questions could not be asked with the control {control} only, and do not count there.",
            highlight=False,
        )
    if result.get("truncated_clips"):
        console.print(f"{result['truncated_clips']} clips were truncated.", highlight=False)
    if result.get("truncated_fraction"):
        console.print(
            f"{result['truncated_fraction']:.1%} of the completions were truncated at the longest length.",
            highlight=False,
        )
    if result.get("empty_fraction"):
        console.print(f"{result['empty_fraction']:.1%} of the completions are empty.", highlight=False)


def _name(name: str) -> str:
    """Return a name that a file or a user chose, as the cell of a table: one line."""
    return one_line(str(name), _LONGEST_NAME)


def _figures(row: Mapping[str, Any]) -> list[str]:
    keys = ("accuracy", "silence_accuracy", "shuffled_accuracy", "chance_accuracy")
    shares = ["-" if row[key] is None else f"{row[key]:.1%}" for key in keys]
    return [*shares, str(row["count"]), str(row["failed"])]


def show_scores(result: Mapping[str, Any], console: Console) -> None:
    """Print scores as a table: in total and by group, with 95 % intervals."""
    scores, source = result["scores"], result["source"]
    known = f", {source['version']}" if source["version"] else ""
    stand_in = "" if scores["is_official"] else " (a stand-in for the official rule)"
    columns = {"official": 4, "none skipped": 3, "exact choice": 2, "count": 1}
    figures_of = (figure(name, leaves, right=True) for name, leaves in columns.items())
    table = Table(text(""), *figures_of, title=f"Scored as {scores['rule']}{known}{stand_in}")
    parts = {"": {"all": scores["total"]}, **scores["groups"]}
    for grouping, groups in parts.items():
        if grouping and groups:
            table.add(grouping.removeprefix("by_").replace("_", "-"), style="bold")
        for name, row in groups.items():
            figures = (_figure(row[key], row[f"{key}_interval"]) for key in ("official", "official_all", "strict"))
            table.add(_name(name), *figures, str(row["questions"]))
    print_parts(console, table)
    total = scores["total"]
    if total["skipped"]:
        console.print(
            f"{total['missing']} questions have no prediction; the official figure skips {total['skipped']}.",
            highlight=False,
        )
    if left_out := result.get("predictions_left_out"):
        kinds = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in left_out.items())
        console.print(f"Predictions for items that are left out do not count: {kinds}.", highlight=False)
    if result.get("pass_at"):
        intervals = result["pass_at_interval"]
        shares = ", ".join(f"pass@{k} {_figure(value, intervals[k])}" for k, value in result["pass_at"].items())
        console.print(shares, highlight=False)


def _figure(value: float | None, interval: dict[str, float] | None) -> str:
    if value is None or interval is None:
        return "-"
    return f"{value:.1%} ({100 * interval['low']:.0f}-{100 * interval['high']:.0f})"


def show_comparison(result: dict[str, Any], console: Console) -> None:
    """Print a comparison as a table: in total and by task."""
    columns = {"first": 4, "second": 5, "difference": 6, "only 1st": 1, "only 2nd": 2, "p": 3}
    figures = (figure(name, leaves, right=True) for name, leaves in columns.items())
    title = f"{_name(result['second'])} against {_name(result['first'])}, {result['questions']} questions"
    table = Table(text(""), *figures, title=title)
    rows = [("all", result), *result["by_task"].items()]
    for name, row in rows:
        for count, label in (("official", "official"), ("strict", "exact")):
            found = row[count]
            table.add(
                f"{_name(name)}, {label}",
                f"{found['first_accuracy']:.1%}",
                f"{found['second_accuracy']:.1%}",
                f"{found['difference']:+.1%} ({100 * found['interval']['low']:+.1f} to "
                f"{100 * found['interval']['high']:+.1f})",
                str(found["only_first"]),
                str(found["only_second"]),
                f"{found['p_value']:.3g}",
            )
    print_parts(console, table)
    if result["left_out"]:
        console.print(f"{result['left_out']} answers to questions that only one result has were left out.")
