"""The table as text, for Markdown and for HTML: a description, how to read it, and its figures."""

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
"""Title of each figure's column."""
NAMED = {"all": "all questions", TRAINED: "types that were trained on", UNSEEN: "types that were not"}
TITLES = {row.name: row.title for row in ROWS}

Table = Mapping[str, Any]


def title(table: Table) -> str:
    """Return the heading."""
    return "The paper's rows, tiny" if table["tiny"] else "The paper's rows"


def description(table: Table) -> list[str]:
    """Return sentences about model, questions, seeds and progress."""
    seeds = table["seeds"]
    counted = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''} ({', '.join(map(str, seeds))})"
    sentences = [f"Model {table['model']}; trained on {table['train']}, evaluated on {table['evaluation']}; {counted}."]
    if table["trained_types"]:
        sentences.append(f"Trained on question types {', '.join(table['trained_types'])} only; evaluated on all.")
    runs = [run for row in table["rows"] for run in row["runs"]]
    done = sum(run["state"] == "succeeded" for run in runs)
    if done < len(runs):
        sentences.append(f"Not complete: {done} of {len(runs)} runs are done.")
    sentences.append(
        "Accuracy in percent, with the 95 % interval (Wilson) for that many questions. It does not include the "
        "variation between trainings, for which each seed is given. Silence: the same questions with silence instead "
        "of the clip."
    )
    if table["tiny"]:
        sentences.append(
            "The paper's column is for another model and other questions (Qwen2-Audio-7B-Instruct on MMAU test-mini): "
            "compare the order of the rows, not the figures."
        )
    return sentences


def header(table: Table) -> list[str]:
    """Return the titles of the columns for which any row has figures."""
    return ["row", *(COLUMNS[name] for name in columns(table)), "by seed", "paper: sound / music / speech / average"]


def columns(table: Table) -> list[str]:
    """Return the figures that any row has, in order; if no row is done, those of every table."""
    present = {name for row in table["rows"] for name in row["figures"]} or {"all", *DOMAINS, "silence"}
    return [name for name in COLUMNS if name in present]


def cells(table: Table) -> list[list[str]]:
    """Return the rows as text, with people last."""
    rows = []
    for row in table["rows"]:
        seeds = ", ".join(f"{100 * value:.1f}" for value in row["by_seed"]) or state(row["runs"])
        rows.append(
            [row["title"], *(figure(row["figures"].get(n)) for n in columns(table)), seeds, paper(row["paper"])]
        )
    rows.append(["People", *("" for _ in columns(table)), "", paper(table["human"])])
    return rows


def state(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return the states of a row's runs."""
    return ", ".join(dict.fromkeys(run["state"] for run in runs))


def figure(found: Mapping[str, Any] | None) -> str:
    """Return an accuracy with its interval, in percent."""
    if found is None:
        return "–"
    low, high = found["interval"]
    return f"{100 * found['accuracy']:.1f} ({100 * low:.0f} to {100 * high:.0f})"


def paper(figures: Mapping[str, float]) -> str:
    """Return the paper's figures of a row."""
    return " / ".join(f"{figures[name]:.2f}" for name in (*DOMAINS, "average"))


def differences(table: Table) -> list[str]:
    """Return a sentence for each difference."""
    return [
        f"{TITLES[q['first']]} minus {TITLES[q['second']]}, {NAMED[q['of']]}: {100 * q['difference']:+.1f} points "
        f"({100 * q['interval'][0]:+.1f} to {100 * q['interval'][1]:+.1f}): {_verdict(q)}."
        for q in table["questions"]
    ]


def _verdict(difference: Mapping[str, Any]) -> str:
    verdict = str(difference["verdict"])
    return "no significant difference" if verdict == "not told apart" else verdict


def problems(table: Table) -> list[str]:
    """Return a sentence for each run that failed."""
    return [
        f"{row['title']}, seed {run['seed']}: {run['problem']}"
        for row in table["rows"]
        for run in row["runs"]
        if run["problem"]
    ]


def markdown(table: Table) -> str:
    """Return the table as Markdown."""
    lines = [f"# {title(table)}", "", *description(table), ""]
    head = header(table)
    lines += [_line(head), "|" + "---|" * len(head), *map(_line, cells(table)), ""]
    for heading, sentences in (("Differences", differences(table)), ("What failed", problems(table))):
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
    """Escape a text for Markdown, and put it on one line."""
    for mark in "\\|<>*_`":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
