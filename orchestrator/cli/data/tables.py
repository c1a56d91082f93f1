"""Print checked and filtered questions for a terminal."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from orchestrator.driver.silence_filter import dropped_file
from orchestrator.preflight.data_check import CheckedSplit, DataCheck

_DROPPED_SHOWN = 20


def show_check(found: DataCheck, console: Console) -> None:
    """Print the statistics of each question file, then every problem."""
    for name, split in found.splits.items():
        console.print(_statistics(name, split))
    problems = [*(p for split in found.splits.values() for p in split.problems), *found.overlap]
    for problem in problems:
        note = "" if problem.refused else " (not refused)"
        console.print(f"{problem.kind.value}{note}: {problem}", markup=False, highlight=False, soft_wrap=True)
    console.print(_verdict(found.refused, len(problems) - found.refused), highlight=False)


def _verdict(refused: int, accepted: int) -> str:
    """Return in words whether a job takes the questions, with the numbers of problems of both kinds."""
    if refused:
        return f"A job would refuse these questions: {_count(refused, 'problem')}. Accepted: {accepted:,}."
    if accepted:
        return f"A job would accept these questions, with {_count(accepted, 'problem')}."
    return "No problem was found."


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _statistics(name: str, split: CheckedSplit) -> Table:
    source, statistics = split.found.source, split.statistics
    table = Table(title=name, show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    table.add_row("format", f"{source.format} {source.version}".strip())
    table.add_row("sha256", source.sha256)
    table.add_row("questions", f"{_count(statistics.questions, 'question')}, {_count(statistics.clips, 'clip')}")
    table.add_row(
        "seconds",
        f"{statistics.seconds_total:,.0f} in total; {statistics.seconds_shortest:.2f} to "
        f"{statistics.seconds_longest:.2f}, {statistics.seconds_mean:.2f} on average",
    )
    table.add_row("by chance", f"{statistics.chance_accuracy:.1%}")
    if statistics.repeated_choices:
        table.add_row("with a repeated choice", f"{statistics.repeated_choices:,}")
    for label in ("task", "category", "sub_category", "difficulty", "choices"):
        counts: dict[str, int] = getattr(statistics, f"by_{label}")
        if counts:
            table.add_row(f"by {label.replace('_', '-')}", "; ".join(f"{key} {n:,}" for key, n in counts.items()))
    return table


def show_filtered(result: dict[str, Any], console: Console) -> None:
    """Print the first of the questions that were removed, and the counts."""
    dropped = result["dropped"]
    table = Table(title=f"Answered by {result['model']} with silence in place of the clip", box=None)
    for name in ("question", "answer", "correct"):
        table.add_column(name, overflow="fold")
    for item in dropped[:_DROPPED_SHOWN]:
        table.add_row(f"{item['id']}: {item['question']}", item["answer"], f"{item['right']} of {item['asked']}")
    if dropped:
        console.print(table)
    if len(dropped) > _DROPPED_SHOWN:
        console.print(f"and {len(dropped) - _DROPPED_SHOWN} more.", highlight=False)
    silence = result["silence_accuracy"]
    accuracy = (
        "" if silence is None else f", {silence:.1%} of answers correct, {result['chance_accuracy']:.1%} by chance"
    )
    console.print(
        f"{result['kept']} of {result['questions']} questions kept{accuracy}; {result['failed']} failed.",
        highlight=False,
    )
    if result["output"] is not None:
        output = Path(result["output"])
        console.print(f"{output}\n{dropped_file(output)}: removed questions", highlight=False, soft_wrap=True)
