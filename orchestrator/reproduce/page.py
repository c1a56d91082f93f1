"""The table as one HTML page that needs no network and no script: figures, bars with intervals, differences, runs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.display.notation import html_text
from orchestrator.display.page import STYLE
from orchestrator.display.plot import Bar, category_plot
from orchestrator.reproduce import words


def render(table: Mapping[str, Any]) -> str:
    """The page as text; also of a table with rows that are not done."""
    done = "complete" if table["complete"] else "not complete"
    failed = words.problems(table)
    return _PAGE.format(
        title=html_text(words.title(table)),
        state=done,
        style=STYLE + _MORE_STYLE,
        said="".join(f"<p class=note>{html_text(sentence)}</p>" for sentence in words.what_was_run(table)),
        head="".join(f"<th>{html_text(text)}</th>" for text in words.header(table)),
        rows="".join(_row(cells) for cells in words.cells(table)),
        plots="".join(_plots(table)) or "<p class=none>No row is done yet.</p>",
        answers=_list(words.answers(table)) or "<p class=none>Needs rows to compare.</p>",
        problems=f"<h2>What failed</h2>{_list(failed)}" if failed else "",
        runs="".join(_row(cells) for cells in _runs(table)),
    )


def _plots(table: Mapping[str, Any]) -> Iterator[str]:
    """For each figure, a bar for every row that has it."""
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


def _row(cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<td>{html_text(cell)}</td>" for cell in cells) + "</tr>"


def _list(sentences: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{html_text(s)}</li>" for s in sentences) + "</ul>" if sentences else ""


_MORE_STYLE = """
td:first-child { font-weight: 600; white-space: nowrap; } .figures td { white-space: nowrap; }
.figures td:last-child { white-space: normal; }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} – Earshot</title><style>{style}</style></head><body>
<header><h1>{title} <span class="state">{state}</span></h1></header>
<main>{said}
<div class="scroll"><table class="figures"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>
<h2>Differences</h2>{answers}
<h2>Bars</h2><p class="note">Whiskers are 95 % intervals.</p><div class="grid">{plots}</div>
{problems}
<h2>Runs</h2><div class="scroll"><table><tbody>{runs}</tbody></table></div></main></body></html>
"""
