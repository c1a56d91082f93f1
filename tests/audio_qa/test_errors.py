"""The tree of errors: every class is in it, as the docstring draws it, and every one can be pickled."""

import ast
import builtins
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from audio_qa import errors
from audio_qa.errors import EarshotError, InputError, one_line, shown
from audio_qa.formats.item import ItemError
from audio_qa.formats.question_set import ProblemKind
from learner.errors import BatchTooLargeError, LearnerMemoryError
from orchestrator.client.errors import RefusedError
from orchestrator.run.records import RunDirectoryError
from orchestrator.service.api.problems import ProblemError
from reward.judge import _NoReplyError
from rollout_workers.errors import RolloutError

ROOT = Path(errors.__file__).parent.parent
PACKAGES = ("audio_qa", "protocol", "rollout_workers", "reward", "learner", "orchestrator")


def classes() -> Iterator[tuple[str, list[str]]]:
    """Every class of the packages with its bases, read from the source: importing all would load torch and vLLM."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    yield node.name, [ast.unparse(base).rpartition(".")[2] for base in node.bases]


def is_exception(name: str, bases: dict[str, list[str]]) -> bool:
    found = getattr(builtins, name, None)
    if isinstance(found, type):
        return issubclass(found, BaseException)
    return any(is_exception(base, bases) for base in bases.get(name, []))


def exceptions() -> dict[str, list[str]]:
    """The bases of every exception of ours, by its name."""
    bases = dict(classes())
    return {name: found for name, found in bases.items() if is_exception(name, bases)}


def test_every_exception_descends_from_the_root():
    found = exceptions()
    assert len(found) > 50

    def descends(name: str) -> bool:
        return name == "EarshotError" or any(descends(base) for base in found.get(name, []))

    assert [name for name in found if not descends(name)] == []


def test_every_class_with_an_errors_name_is_one():
    found = exceptions()
    assert [name for name, _ in classes() if name.endswith("Error") and name not in found] == []


def test_the_docstring_draws_the_tree():
    assert errors.__doc__ is not None
    drawn: dict[str, set[str]] = {}
    above: list[str] = []
    for line in errors.__doc__.splitlines():
        match = re.match(r"([│├└─ ]*)(_?[A-Z]\w+Error)\b(?:.*\(also an? (\w+)\))?", line)
        if match:
            depth = len(match[1]) // 4
            above[depth:] = [match[2]]
            if depth:
                drawn.setdefault(match[2], set()).add(above[depth - 1])
            if match[3]:
                drawn.setdefault(match[2], set()).add(match[3])
    actual = {name: set(bases) for name, bases in exceptions().items() if name != "EarshotError"}
    assert drawn == actual


@pytest.mark.parametrize(
    "error",
    [
        InputError("rollout.workers: 0 is too few"),
        ItemError("missing key 'question'", ProblemKind.ITEM),
        BatchTooLargeError("12 micro-batches", 900),
        LearnerMemoryError("rank 0: too large", tokens=900),
        RolloutError("rollout-1", "it died"),
        RunDirectoryError(Path("runs/a"), "is not a directory"),
        RefusedError(404, "there is no job 'x'", "r-1"),
        ProblemError(401, "a token is needed", headers={"WWW-Authenticate": "Bearer"}),
        _NoReplyError("HTTP 503", retryable=True, retry_after=2.0),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_survives_the_way_to_another_process(error: EarshotError):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), copy.args, vars(copy)) == (str(error), error.args, vars(error))


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10**7,
        "\x1b[31m" * 10**5,
        2**10**6,
        [["x" * 500] * 50] * 50,
        {"k" * 500 + str(i): "v" * 500 for i in range(9)},
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_is_shown_in_part_of_a_line(value: object):
    text = shown(value)
    assert len(text) <= 160
    assert text.isprintable()


def test_a_message_is_one_line_with_its_beginning_and_its_end():
    assert one_line("a  b\n c\t\x1b[31mred\u202e\udce9 é") == "a b c \\x1b[31mred\\u202e\\udce9 é"
    for filler in ("x", "\x1b", "\n", "\u202e"):
        text = one_line(f"job.yaml: {filler * 10**6} correct the path")
        assert len(text) <= 1000
        assert text.startswith("job.yaml: ")
        assert text.endswith("correct the path")
