"""The table in words: what was run and how to read it, and its figures as text, for Markdown and for HTML."""

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.reproduce.figures import TRAINED, UNSEEN
from orchestrator.reproduce.rows import DOMAINS, ROWS

COLUMNS = {
    "all": "all",
    TRAINED: "trained types",
    UNSEEN: "unseen types",
    **{domain: domain for domain in DOMAINS},
    "silence": "silence",
}
"""By figure, its column's title."""
NAMED = {"all": "all questions", TRAINED: "types that were trained on", UNSEEN: "types that were not"}
TITLES = {row.name: row.title for row in ROWS}

Table = Mapping[str, Any]


def title(table: Table) -> str:
    return "The paper's rows, tiny" if table["tiny"] else "The paper's rows"


def what_was_run(table: Table) -> list[str]:
    """Sentences about model, questions, seeds and how far it is."""
    seeds = table["seeds"]
    counted = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''} ({', '.join(map(str, seeds))})"
    said = [f"Model {table['model']}; trained on {table['train']}, asked {table['evaluation']}; {counted}."]
    if table["trained_types"]:
        said.append(f"Trained on question types {', '.join(table['trained_types'])} only; asked about all.")
    runs = [run for row in table["rows"] for run in row["runs"]]
    done = sum(run["state"] == "succeeded" for run in runs)
    if done < len(runs):
        said.append(f"Not complete: {done} of {len(runs)} runs are done.")
    said.append(
        "Accuracy in percent, with the 95 % interval (Wilson) of so many questions; it knows nothing of how trainings "
        "differ, for which the seeds are given one by one. Silence is the same questions with silence for the clip."
    )
    if table["tiny"]:
        said.append(
            "The paper's column is of another model and other questions (Qwen2-Audio-7B-Instruct on MMAU test-mini): "
            "there to compare the order of rows, not the figures."
        )
    return said


def header(table: Table) -> list[str]:
    """Titles of the columns that any row has figures for."""
    return ["row", *(COLUMNS[name] for name in columns(table)), "by seed", "paper: sound / music / speech / average"]


def columns(table: Table) -> list[str]:
    """The figures that any row has, in order; those that every table has, where none is done."""
    there = {name for row in table["rows"] for name in row["figures"]} or {"all", *DOMAINS, "silence"}
    return [name for name in COLUMNS if name in there]


def cells(table: Table) -> list[list[str]]:
    """The rows as text, people last."""
    made = []
    for row in table["rows"]:
        seeds = ", ".join(f"{100 * value:.1f}" for value in row["by_seed"]) or state(row["runs"])
        made.append(
            [row["title"], *(figure(row["figures"].get(n)) for n in columns(table)), seeds, paper(row["paper"])]
        )
    made.append(["People", *("" for _ in columns(table)), "", paper(table["human"])])
    return made


def state(runs: Sequence[Mapping[str, Any]]) -> str:
    """How far the runs of a row are."""
    return ", ".join(dict.fromkeys(run["state"] for run in runs))


def figure(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "–"
    low, high = found["interval"]
    return f"{100 * found['accuracy']:.1f} ({100 * low:.0f} to {100 * high:.0f})"


def paper(figures: Mapping[str, float]) -> str:
    return " / ".join(f"{figures[name]:.2f}" for name in (*DOMAINS, "average"))


def answers(table: Table) -> list[str]:
    """A sentence for each difference."""
    return [
        f"{TITLES[q['first']]} less {TITLES[q['second']]}, {NAMED[q['of']]}: {100 * q['difference']:+.1f} points "
        f"({100 * q['interval'][0]:+.1f} to {100 * q['interval'][1]:+.1f}): {q['verdict']}."
        for q in table["questions"]
    ]


def problems(table: Table) -> list[str]:
    """A sentence for each run that failed."""
    return [
        f"{row['title']}, seed {run['seed']}: {run['problem']}"
        for row in table["rows"]
        for run in row["runs"]
        if run["problem"]
    ]


def markdown(table: Table) -> str:
    """The table as Markdown."""
    lines = [f"# {title(table)}", "", *what_was_run(table), ""]
    head = header(table)
    lines += [_line(head), "|" + "---|" * len(head), *map(_line, cells(table)), ""]
    for heading, sentences in (("Differences", answers(table)), ("What failed", problems(table))):
        if sentences:
            lines += [f"## {heading}", "", *(f"- {escape(sentence)}" for sentence in sentences), ""]
    lines += ["## Runs", "", "| row | seed | state | seconds | run |", "|---|---|---|---|---|"]
    for row in table["rows"]:
        for run in row["runs"]:
            seconds = "" if run["seconds"] is None else f"{run['seconds']:.0f}"
            lines.append(_line([row["title"], str(run["seed"]), run["state"], seconds, run["run_dir"]]))
    return "\n".join(lines) + "\n"


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(map(escape, texts)) + " |"


def escape(text: str) -> str:
    """As it stands in Markdown: no markup, and on one line."""
    for mark in "\\|<>*_`":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
