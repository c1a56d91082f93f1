"""Print the results of commands: as JSON, or as tables for a terminal."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from audio_qa.errors import one_line
from audio_qa.scoring.score import GROUPINGS
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
        show(result, Console())


def show_plan(planned: dict[str, Any], console: Console) -> None:
    """Print a plan as a table, what is missing for it, and the resolved job file."""
    table = Table(title=f"Plan of {_name(planned['name'])}", show_header=False)
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
        table.add_row(key.replace("_", " "), "to be filled in" if value is None else _plan_text(value))
    for split, source in planned["data"].items():
        left_out = ", ".join(f"{n:,} {kind.replace('_', ' ')}" for kind, n in source["left_out"].items())
        version = f"{source['format']} {source['version']}".strip()
        table.add_row(f"{split} file", f"{version}; left out: {left_out}" if left_out else version)
    for part, gib in planned["memory_gib"].items():
        more = " and activations" if part == "learner_rank" else ""
        table.add_row(f"memory of a {part.replace('_', ' ')}", f"{gib} GiB{more}")
    room = planned["checkpoint_gib"]
    if room["most"]:
        table.add_row("checkpoints", f"at most {room['most']} of {room['each']} GiB, {room['total']} GiB in all")
    _add_time(planned["time"], table)
    console.print(table)
    for key, name in planned["to_fill_in"].items():
        console.print(f"To be filled in: {key}, {name}. The plan uses the published figures.", highlight=False)
    for warning in planned["memory_warnings"]:
        console.print(f"Does not fit: {warning}.", highlight=False)
    for warning in [*planned["disk_warnings"], *planned["device_warnings"]]:
        console.print(f"Warning: {warning}.", highlight=False)
    for assumption in (planned["time"] or {}).get("assumptions", ()):
        console.print(f"Time: {assumption}.", style="dim", highlight=False)
    console.print(dump_spec(JobSpec.model_validate(planned["job"])), markup=False, highlight=False)


def _plan_text(value: bool | float | str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return _name(value) if isinstance(value, str) else f"{value:,}"


def _add_time(time: dict[str, Any] | None, table: Table) -> None:
    if time is None:
        table.add_row("time", "not estimated on CPUs")
        return
    rows = (("step_seconds", "a step", "s"), ("evaluation_seconds", "an evaluation", "s"), ("hours", "the job", "h"))
    for key, of_what, unit in rows:
        if time[key] is not None:
            low, high = time[key]
            span = f"{low} to {high} {unit}" if high >= _SHORTEST else f"less than {_SHORTEST} {unit}"
            table.add_row(f"time of {of_what}", f"{span}, an estimate")


def show_evaluation(result: Mapping[str, Any], console: Console) -> None:
    """Print an evaluation as a table: in total and by group; then its benchmark's scores."""
    table = Table(title=f"Accuracy of {_name(result['model'])}", box=None)
    for name in ("", "audio", "silence", "shuffled", "chance", "questions", "failed"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=bool(name))
    table.add_row("all", *_figures(result))
    for grouping in GROUPINGS:
        rows = [(name, row) for name, row in result[grouping].items() if name != "all"]
        if rows:
            table.add_row(grouping.removeprefix("by_").replace("_", "-"), style="bold")
        for name, row in rows:
            table.add_row(_name(name), *_figures(row))
    console.print(table)
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


def _name(text: str) -> str:
    """Return a name that a file or a user chose, as the cell of a table: one line, without markup."""
    return escape(one_line(str(text), _LONGEST_NAME))


def _figures(row: Mapping[str, Any]) -> list[str]:
    keys = ("accuracy", "silence_accuracy", "shuffled_accuracy", "chance_accuracy")
    shares = ["-" if row[key] is None else f"{row[key]:.1%}" for key in keys]
    return [*shares, str(row["count"]), str(row["failed"])]


def show_scores(result: Mapping[str, Any], console: Console) -> None:
    """Print scores as a table: in total and by group, with 95 % intervals."""
    scores, source = result["scores"], result["source"]
    known = f", {source['version']}" if source["version"] else ""
    stand_in = "" if scores["is_official"] else " (a stand-in for the official rule)"
    table = Table(title=f"Scored as {scores['rule']}{known}{stand_in}", box=None)
    table.add_column("")
    for name in ("official", "none skipped", "exact choice", "count"):
        table.add_column(name, justify="right", no_wrap=True)
    parts = {"": {"all": scores["total"]}, **scores["groups"]}
    for grouping, groups in parts.items():
        if grouping and groups:
            table.add_row(grouping.removeprefix("by_").replace("_", "-"), style="bold")
        for name, row in groups.items():
            figures = (_figure(row[key], row[f"{key}_interval"]) for key in ("official", "official_all", "strict"))
            table.add_row(_name(name), *figures, str(row["questions"]))
    console.print(table)
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
        text = ", ".join(f"pass@{k} {_figure(value, intervals[k])}" for k, value in result["pass_at"].items())
        console.print(text, highlight=False)


def _figure(value: float | None, interval: dict[str, float] | None) -> str:
    if value is None or interval is None:
        return "-"
    return f"{value:.1%} ({100 * interval['low']:.0f}-{100 * interval['high']:.0f})"


def show_comparison(result: dict[str, Any], console: Console) -> None:
    """Print a comparison as a table: in total and by task."""
    table = Table(
        title=f"{_name(result['second'])} against {_name(result['first'])}, {result['questions']} questions", box=None
    )
    table.add_column("")
    for name in ("first", "second", "difference", "only 1st", "only 2nd", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = [("all", result), *result["by_task"].items()]
    for name, row in rows:
        for count, label in (("official", "official"), ("strict", "exact")):
            found = row[count]
            table.add_row(
                f"{_name(name)}, {label}",
                f"{found['first_accuracy']:.1%}",
                f"{found['second_accuracy']:.1%}",
                f"{found['difference']:+.1%} ({100 * found['interval']['low']:+.1f} to "
                f"{100 * found['interval']['high']:+.1f})",
                str(found["only_first"]),
                str(found["only_second"]),
                f"{found['p_value']:.3g}",
            )
    console.print(table)
    if result["left_out"]:
        console.print(f"{result['left_out']} answers to questions that only one result has were left out.")
