"""Compare two results of `earshot evaluate` or `earshot score` on the same questions."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from audio_qa.dataset import DatasetError
from audio_qa.errors import one_line, shown
from audio_qa.scoring.paired import compare

_CORRECTION = "name the output of earshot evaluate --json or earshot score --json"


class ComparedSource(BaseModel):
    """The question file of a result, as far as a comparison needs it."""

    location: str
    version: str
    sha256: str
    format: str = ""


class ComparedAnswer(BaseModel):
    """The answer to a question, as far as a comparison needs it."""

    id: str
    task: str
    prediction: str | None = None
    official: bool | None
    strict: bool | None


class ComparedResult(BaseModel):
    """A result, as far as a comparison needs it; earlier versions write it, too."""

    model: str | None = None
    source: ComparedSource
    answers: list[ComparedAnswer]
    scores: dict[str, Any] | None
    labelled: bool | None = None
    """None in a result of an earlier version, whose strict count of AIR-Bench took letters for answers."""


def read_result(path: Path) -> dict[str, Any]:
    """Read a result that `--json` printed.

    Raises DatasetError if the file does not hold one, or one without scores, as its questions have no answers.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DatasetError(f"{str(path)!r}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{str(path)!r}: not UTF-8 text; {_CORRECTION}") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{str(path)!r}: not JSON ({one_line(str(error), 200)}); {_CORRECTION}") from error
    try:
        result = ComparedResult.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise DatasetError(
            f"{str(path)!r}: not a result of `earshot evaluate --json` or `earshot score --json` "
            f"({one_line(f'{where}: ' if where else '', 100)}{first['msg']})"
        ) from error
    if result.scores is None:
        raise DatasetError(
            f"{str(path)!r}: its questions have no answers, so there is nothing to compare; name results on questions "
            "with answers"
        )
    plain = result.model_dump()
    if result.labelled is None and result.source.format == "air_bench":
        for answer in plain["answers"]:
            # A letter is the right choice, verbatim, if it is right by the official rule.
            lettered = answer["prediction"] in ("A", "B", "C", "D")
            answer["strict"] = answer["strict"] or (lettered and answer["official"] is True)
    return plain


def compare_results(first: dict[str, Any], second: dict[str, Any], *, seed: int = 0) -> dict[str, Any]:
    """Compare both counts, in total and by task, over the questions that are in both results.

    Questions that the official figure skips count as wrong, so that both results have the same questions.

    Raises:
        DatasetError: the results are of different question files, of one that was read in different ways, or have no
            question in common.
    """
    ours, theirs = (result["source"]["sha256"] for result in (first, second))
    if ours != theirs:
        raise DatasetError(
            f"the results are of different question files ({_named(first)}, {_named(second)}); their scores cannot be "
            "compared, evaluate both on one"
        )
    formats = [result["source"].get("format") for result in (first, second)]
    if all(formats) and len(set(formats)) > 1:
        raise DatasetError(
            f"the results read their question file as {formats[0]} and as {formats[1]}, whose rules differ; their "
            "scores cannot be compared, read it with the same --format"
        )
    answers = {answer["id"]: answer for answer in second["answers"]}
    pairs = [(answer, answers[answer["id"]]) for answer in first["answers"] if answer["id"] in answers]
    if not pairs:
        raise DatasetError("the results have no question in common; evaluate both on the same questions")
    # The counts of an earlier version differ in a few cases.
    if None not in (first.get("labelled"), second.get("labelled")):
        _refuse_other_answers(pairs)
    by_task: dict[str, list[tuple[Any, Any]]] = defaultdict(list)
    for pair in pairs:
        by_task[pair[0]["task"] or "none"].append(pair)
    return {
        "first": first.get("model"),
        "second": second.get("model"),
        "source": first["source"],
        "questions": len(pairs),
        "left_out": len(first["answers"]) + len(second["answers"]) - 2 * len(pairs),
        **_both(pairs, seed),
        "by_task": {task: _both(of_task, seed) for task, of_task in sorted(by_task.items())},
    }


def _refuse_other_answers(pairs: Sequence[tuple[Any, Any]]) -> None:
    """Raise DatasetError if one prediction is right in one result only: the results have other right answers."""
    for a, b in pairs:
        if a["prediction"] == b["prediction"] and any(a[count] is not b[count] for count in ("official", "strict")):
            raise DatasetError(
                f"the results judge one prediction for question {shown(a['id'])} differently: their question file was "
                "read with other --column options; their scores cannot be compared, read it with the same ones"
            )


def _both(pairs: Sequence[tuple[Any, Any]], seed: int) -> dict[str, Any]:
    """Compare by the official rule and by the exact choice."""
    return {
        count: asdict(compare([a[count] is True for a, _ in pairs], [b[count] is True for _, b in pairs], seed=seed))
        for count in ("official", "strict")
    }


def _named(result: dict[str, Any]) -> str:
    source = result["source"]
    return " ".join(f"{source['location']} {source['version']} sha256 {source['sha256'][:12]}".split())
