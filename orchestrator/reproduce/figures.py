"""The figures of the table: accuracy of the runs of a row, over all its seeds, with 95 % intervals.

Counts are added up over seeds: each seed has its own model and questions. The interval is Wilson's for that many
questions. It does not include the variation between trainings, for which each seed is reported as well. Two rows are
compared by Newcombe's hybrid score interval (Newcombe, 1998, method 10), which assumes independent questions; if both
rows have the same ones, the interval is conservative.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from audio_qa.scoring.intervals import interval
from orchestrator.job.sections.data import SYNTHETIC
from orchestrator.job.spec import Method
from orchestrator.reproduce.rows import DOMAINS, HUMAN, QUESTIONS, TableRow
from orchestrator.reproduce.runs import RowRun

TRAINED, UNSEEN = "trained_types", "unseen_types"


@dataclass(frozen=True, slots=True)
class Share:
    """A number of correct answers out of a number of questions."""

    right: int
    questions: int

    @property
    def value(self) -> float:
        return self.right / self.questions

    def plain(self) -> dict[str, Any]:
        """Return the share as plain data, with its interval."""
        low, high = interval(self.value, self.questions)
        return {
            "accuracy": round(self.value, 4),
            "interval": [round(low, 4), round(high, 4)],
            "right": self.right,
            "questions": self.questions,
        }


def shares(evaluation: Mapping[str, Any], trained: Sequence[str]) -> dict[str, Share]:
    """Return the shares of one evaluation: all questions, by domain, by trained and unseen type, and with silence."""
    found = {"all": [evaluation], "silence": [evaluation], "chance": [evaluation]}
    found |= {domain: [evaluation["by_task"][domain]] for domain in DOMAINS if domain in evaluation["by_task"]}
    if trained:
        parts = evaluation["by_category"].items()
        found[TRAINED] = [part for name, part in parts if name in trained]
        found[UNSEEN] = [part for name, part in parts if name not in trained]
    keys = {"silence": "silence_accuracy", "chance": "chance_accuracy"}
    measured = {name: _share(parts, keys.get(name, "accuracy")) for name, parts in found.items()}
    return {name: share for name, share in measured.items() if share is not None}


def _share(parts: Sequence[Mapping[str, Any]], key: str) -> Share | None:
    """Return the share of some parts of an evaluation; None if they were not measured, as without a control.

    A part of which no question could be asked counts as wrong beside others, as in the evaluation's total.
    """
    values = [0.0 if part.get(key) is None and part.get("failed") == part["count"] else part.get(key) for part in parts]
    if None in values or all(part.get(key) is None for part in parts):
        return None
    return Share(
        round(sum(value * part["count"] for value, part in zip(values, parts, strict=True))),
        sum(part["count"] for part in parts),
    )


def pooled(by_seed: Sequence[Mapping[str, Share]]) -> dict[str, Share]:
    """Add up the counts of several seeds."""
    names = dict.fromkeys(name for seed in by_seed for name in seed)
    each = {name: [seed[name] for seed in by_seed if name in seed] for name in names}
    return {name: Share(sum(s.right for s in parts), sum(s.questions for s in parts)) for name, parts in each.items()}


def difference(first: Share, second: Share) -> dict[str, Any]:
    """Return the first share minus the second, with Newcombe's interval."""
    (low1, high1), (low2, high2) = (interval(s.value, s.questions) for s in (first, second))
    d = first.value - second.value
    low = d - math.hypot(first.value - low1, high2 - second.value)
    high = d + math.hypot(high1 - first.value, second.value - low2)
    verdict = "higher" if low > 0 else "lower" if high < 0 else "not told apart"
    return {"difference": round(d, 4), "interval": [round(low, 4), round(high, 4)], "verdict": verdict}


def table(runs: Sequence[RowRun], *, tiny: bool, seconds: float, problems: Mapping[str, str]) -> dict[str, Any]:
    """Return the table as plain data, from the current run directories.

    Args:
        seconds: time spent on it by this call.
        problems: by run directory, the reason why a row failed.
    """
    rows = list(dict.fromkeys(run.row for run in runs))
    by_row = {row: [run for run in runs if run.row == row] for row in rows}
    # Rows without training read no training questions.
    first = next((run.spec for run in runs if run.spec.method is not Method.EVALUATE), runs[0].spec)
    trained = first.data.synthetic_train_categories if first.data.train == SYNTHETIC else []
    by_seed = {row.name: _seeds(row_runs) for row, row_runs in by_row.items()}
    return {
        "tiny": tiny,
        "complete": all(run.done for run in runs),
        "seconds": round(seconds, 1),
        "seeds": sorted({run.spec.seed for run in runs}),
        "model": first.model.path,
        "train": first.data.train,
        "evaluation": first.data.evaluation,
        "trained_types": list(trained),
        "rows": [_row(row, by_row[row], list(by_seed[row.name].values()), problems) for row in rows],
        "questions": _questions(by_seed),
        "human": asdict(HUMAN),
    }


def _seeds(runs: Sequence[RowRun]) -> dict[int, dict[str, Share]]:
    """Return the shares of the runs that are done, by seed."""
    evaluations = [(run.spec, run.evaluation()) for run in runs]
    return {spec.seed: shares(e, spec.data.synthetic_train_categories) for spec, e in evaluations if e is not None}


def _row(
    row: TableRow, runs: Sequence[RowRun], by_seed: Sequence[Mapping[str, Share]], problems: Mapping[str, str]
) -> dict[str, Any]:
    spec = runs[0].spec
    return {
        "name": row.name,
        "title": row.title,
        "prompt": spec.data.prompt.value,
        "steps": spec.steps,
        "figures": {name: share.plain() for name, share in pooled(by_seed).items()},
        # A seed whose last evaluation could not ask any question has no figure.
        "by_seed": [round(seed["all"].value, 4) for seed in by_seed if "all" in seed],
        "runs": [_run(run, problems.get(str(run.path))) for run in runs],
        "paper": asdict(row.paper),
    }


def _run(run: RowRun, problem: str | None) -> dict[str, Any]:
    summary = run.summary() or {}
    state = run.state()
    return {
        "seed": run.spec.seed,
        "state": state,
        "seconds": summary.get("seconds"),
        "run_dir": str(run.path),
        # A row that failed before and is done now has the problem of its evaluation only.
        "problem": _evaluation_problem(run.evaluation() or {}) if state == "succeeded" else problem,
    }


def _evaluation_problem(evaluation: Mapping[str, Any]) -> str | None:
    """Return that questions of an evaluation failed, if so."""
    failed, count = evaluation.get("failed"), evaluation.get("count")
    return f"{failed} of {count} questions could not be asked; events.jsonl has the reasons" if failed else None


def _questions(found: Mapping[str, Mapping[int, Mapping[str, Share]]]) -> list[dict[str, Any]]:
    """Return the differences that the paper compares: for all questions, for trained and for unseen types."""
    answers = []
    for first, second in QUESTIONS:
        one, other = found.get(first, {}), found.get(second, {})
        # In an incomplete table, the seeds that both rows have.
        both = [seed for seed in one if seed in other]
        a, b = pooled([one[seed] for seed in both]), pooled([other[seed] for seed in both])
        for name in ("all", TRAINED, UNSEEN):
            if name in a and name in b:
                answers.append({"first": first, "second": second, "of": name} | difference(a[name], b[name]))
    return answers
