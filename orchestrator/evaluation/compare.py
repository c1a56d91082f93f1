"""Compare two results of `earshot evaluate` or `earshot score` on the same questions."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from audio_qa.dataset import DatasetError
from audio_qa.scoring.paired import compare

_CORRECTION = "name the output of earshot evaluate --json or earshot score --json"


def read_result(path: Path) -> dict[str, Any]:
    """Read a result that `--json` printed. Raises DatasetError if the file does not hold one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"{str(path)!r}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{str(path)!r}: not UTF-8 text; {_CORRECTION}") from error
    except ValueError as error:
        raise DatasetError(f"{str(path)!r}: not JSON ({error}); {_CORRECTION}") from error
    if not isinstance(value, dict) or not {"answers", "source", "scores"} <= value.keys():
        raise DatasetError(f"{str(path)!r}: not a result of `earshot evaluate --json` or `earshot score --json`")
    return value


def compare_results(first: dict[str, Any], second: dict[str, Any], *, seed: int = 0) -> dict[str, Any]:
    """Compare both counts, in total and by task, over the questions that are in both results.

    Questions that the official figure skips count as wrong, so that both results have the same questions.

    Raises:
        DatasetError: the results are of different question files, or have no question in common.
    """
    ours, theirs = (result["source"]["sha256"] for result in (first, second))
    if ours != theirs:
        raise DatasetError(
            f"the results are of different question files ({_named(first)}, {_named(second)}); their scores cannot be "
            "compared, evaluate both on one"
        )
    answers = {answer["id"]: answer for answer in second["answers"]}
    pairs = [(answer, answers[answer["id"]]) for answer in first["answers"] if answer["id"] in answers]
    if not pairs:
        raise DatasetError("the results have no question in common; evaluate both on the same questions")
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


def _both(pairs: Sequence[tuple[Any, Any]], seed: int) -> dict[str, Any]:
    """Compare by the official rule and by the exact choice."""
    return {
        count: asdict(compare([a[count] is True for a, _ in pairs], [b[count] is True for _, b in pairs], seed=seed))
        for count in ("official", "strict")
    }


def _named(result: dict[str, Any]) -> str:
    source = result["source"]
    return " ".join(f"{source['location']} {source['version']} sha256 {source['sha256'][:12]}".split())
