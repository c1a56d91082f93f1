"""Print checked and filtered questions for a terminal."""

from pathlib import Path
from typing import Any

from rich.console import Console

from audio_qa.errors import one_line
from orchestrator.display.table import Facts, Table, figure, show, text
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
        show(console, _statistics(name, split))
    problems = [*(p for split in found.splits.values() for p in split.problems), *found.overlap]
    for problem in problems:
        note = "" if problem.refused else " (not refused)"
        show(console, one_line(f"{problem.kind.value}{note}: {problem}"))
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


def _statistics(name: str, split: CheckedSplit) -> Facts:
    source, statistics = split.found.source, split.statistics
    table = Facts(title=one_line(name))
    table.add("format", f"{source.format} {source.version}".strip())
    table.add("sha256", source.sha256)
    table.add("questions", f"{_count(statistics.questions, 'question')}, {_count(statistics.clips, 'clip')}")
    table.add(
        "seconds",
        f"{statistics.seconds_total:,.0f} in total; {statistics.seconds_shortest:.2f} to "
        f"{statistics.seconds_longest:.2f}, {statistics.seconds_mean:.2f} on average",
    )
    chance = statistics.chance_accuracy
    table.add("by chance", "not known without answers" if chance is None else f"{chance:.1%}")
    if statistics.repeated_choices:
        table.add("with a repeated choice", f"{statistics.repeated_choices:,}")
    for label in ("task", "category", "sub_category", "difficulty", "choices"):
        counts: dict[str, int] = getattr(statistics, f"by_{label}")
        if counts:
            each = "; ".join(f"{one_line(key, _LONGEST_NAME)} {n:,}" for key, n in counts.items())
            table.add(f"by {label.replace('_', '-')}", each)
    return table


def show_filtered(result: dict[str, Any], console: Console) -> None:
    """Print the first of the questions that were removed, and the counts."""
    dropped = result["dropped"]
    title = f"Answered by {one_line(result['model'])} with silence in place of the clip"
    table = Table(text("question"), text("answer"), figure("correct", 1), title=title)
    for item in dropped[:_DROPPED_SHOWN]:
        asked, answer = one_line(f"{item['id']}: {item['question']}"), one_line(item["answer"])
        table.add(asked, answer, f"{item['right']} of {item['asked']}")
    if dropped:
        show(console, table)
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
