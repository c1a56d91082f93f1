"""The table as one HTML page without network access or scripts: figures, bars with intervals, differences, runs."""

from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from orchestrator.display.markup import render_template
from orchestrator.display.plot import Bar, category_plot
from orchestrator.reproduce import words


def render(table: Mapping[str, Any]) -> str:
    """Return the page as text; also for a table with rows that are not done."""
    return render_template(
        "table.html.j2",
        "orchestrator.reproduce",
        title=words.title(table),
        state="complete" if table["complete"] else "not complete",
        description=words.description(table),
        header=words.header(table),
        figures=words.cells(table),
        plots=list(_plots(table)),
        differences=words.differences(table),
        problems=words.problems(table),
        runs=list(_runs(table)),
    )


def _plots(table: Mapping[str, Any]) -> Iterator[Markup]:
    """Yield a plot for each figure, with a bar for every row that has it."""
    for name in words.columns(table):
        if name == "silence":
            continue  # A second bar of each row, among all questions.
        bars = [_bar(row, name) for row in table["rows"] if name in row["figures"]]
        if bars:
            yield category_plot(words.NAMED.get(name, name).capitalize(), bars)


def _bar(row: Mapping[str, Any], name: str) -> Bar:
    figures = row["figures"]
    whole = name == "all"
    return Bar(
        row["title"],
        figures[name]["accuracy"],
        figures["silence"]["accuracy"] if whole and "silence" in figures else None,
        figures["chance"]["accuracy"] if whole else None,
        figures[name]["questions"],
    )


def _runs(table: Mapping[str, Any]) -> Iterator[list[str]]:
    for row in table["rows"]:
        for run in row["runs"]:
            seconds = "" if run["seconds"] is None else f"{run['seconds']:.0f} s"
            yield [row["title"], f"seed {run['seed']}", run["state"], seconds, run["run_dir"]]
