"""Print checked and filtered questions for a terminal."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from audio_qa.errors import one_line
from orchestrator.driver.silence_filter import dropped_file
from orchestrator.preflight.data_check import CheckedSplit, DataCheck

_DROPPED_SHOWN = 20
_WITHOUT_ANSWERS = (
    "The questions have no answers, so predictions cannot be scored: `earshot evaluate --predictions FILE` and a job "
    "with `method: evaluate` write them, and training needs `data.unlabelled`. If the file has answers, name their "
    "column, as in --column answer=COLUMN."
)
_LONGEST_NAME = 100
"""Most characters of a task, category or difficulty."""


def show_check(found: DataCheck, console: Console) -> None:
    """Print the statistics of each question file, then every problem."""
    for name, split in found.splits.items():
        console.print(_statistics(name, split))
    problems = [*(p for split in found.splits.values() for p in split.problems), *found.overlap]
    for problem in problems:
        note = "" if problem.refused else " (not refused)"
        text = one_line(f"{problem.kind.value}{note}: {problem}")
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    console.print(_verdict(found.refused, len(problems) - found.refused), highlight=False)
    if found.without_answers:
        console.print(_WITHOUT_ANSWERS, highlight=False, soft_wrap=True)


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
    table = Table(title=escape(one_line(name)), show_header=False)
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
    chance = statistics.chance_accuracy
    table.add_row("by chance", "not known without answers" if chance is None else f"{chance:.1%}")
    if statistics.repeated_choices:
        table.add_row("with a repeated choice", f"{statistics.repeated_choices:,}")
    for label in ("task", "category", "sub_category", "difficulty", "choices"):
        counts: dict[str, int] = getattr(statistics, f"by_{label}")
        if counts:
            text = "; ".join(f"{one_line(key, _LONGEST_NAME)} {n:,}" for key, n in counts.items())
            table.add_row(f"by {label.replace('_', '-')}", Text(text))
    return table


def show_filtered(result: dict[str, Any], console: Console) -> None:
    """Print the first of the questions that were removed, and the counts."""
    dropped = result["dropped"]
    table = Table(title=f"Answered by {escape(one_line(result['model']))} with silence in place of the clip", box=None)
    for name in ("question", "answer", "correct"):
        table.add_column(name, overflow="fold")
    for item in dropped[:_DROPPED_SHOWN]:
        asked, answer = one_line(f"{item['id']}: {item['question']}"), one_line(item["answer"])
        table.add_row(Text(asked), Text(answer), f"{item['right']} of {item['asked']}")
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
