"""Whatever the reader returns, the answer is the one that the file means, by a reading of the file in this test."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from audio_qa.dataset import DatasetError
from audio_qa.files.reader import read_questions
from audio_qa.formats.question_set import ProblemKind

LETTERS = "ABCDEFGH"
texts = st.sampled_from(["a dog", "a cat", "rain", " rain", "A", "B", "0", "1", "2", "3", "2.0", "1/2", "é"])
gaps = st.sampled_from(["", " ", None])
numbers = st.integers(-1, 4) | st.sampled_from([0.0, 1.0, 2.0, 1.5, float("nan")])
options = st.lists(texts | gaps | numbers | st.booleans(), min_size=2, max_size=5)
answers = texts | gaps | numbers | st.booleans() | st.sampled_from(["a", "(C)", "D.", " 1 ", "1.0", "-1", "rain"])


def blank(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value)) or not str(value).strip()


def number(value: Any) -> float | None:
    """The number that a value says, None for others."""
    try:
        return None if isinstance(value, bool) or blank(value) else float(value)
    except (TypeError, ValueError):
        return None


def whole(value: Any) -> int | None:
    found = number(value)
    return int(found) if found is not None and found == found // 1 else None


def at(own: list[Any], index: int | None) -> set[str | None]:
    """The choice at an index of the file's own list; None if the file's answer points at nothing."""
    if index is None or not 0 <= index < len(own) or blank(own[index]):
        return {None}
    return {str(own[index])}


def same(own: list[Any], value: Any) -> set[str | None]:
    """The choices that a value equals, letter by letter, or as numbers."""
    if isinstance(value, bool) or blank(value):
        return {None}
    verbatim = {value for option in own if not blank(option) and isinstance(value, str) and str(option) == value}
    equal = {
        str(option)
        for option in own
        if not blank(option) and not isinstance(value, str) and number(option) == float(value)
    }
    return verbatim | equal or {None}


def either(own: list[Any], value: Any) -> set[str | None]:
    """All that an answer can mean which may be a choice or an index."""
    if whole(value) is None:
        return same(own, value)
    return (at(own, whole(value)) | same(own, value)) - {None} or {None}


def lettered(own: list[Any], value: Any) -> set[str | None]:
    letter = str(value).strip().strip("().").upper()
    return at(own, LETTERS.index(letter)) if len(letter) == 1 and letter in LETTERS else {None}


def indexed(own: list[Any], value: Any) -> set[str | None]:
    """AVQA's answer is an index; one that is written as text could be a choice too."""
    return either(own, value) if isinstance(value, str) else at(own, whole(value))


Meaning = Callable[[list[Any], Any], set[str | None]]
QUESTION = {"id": "q", "question": "What?", "audio": "1.wav"}
FORMATS: dict[str, tuple[dict[str, Any], str, str, Meaning]] = {
    "earshot": (QUESTION, "choices", "answer", same),
    "mmau": ({"id": "q", "question": "What?", "audio_id": "1.wav"}, "choices", "answer", same),
    "mmar": ({"id": "q", "question": "What?", "audio_path": "1.wav", "modality": "x"}, "choices", "answer", same),
    "mmau_pro": (
        {"id": "q", "question": "What?", "audio_path": ["1.wav"], "length_type": "short", "category": "sound"},
        "choices",
        "answer",
        same,
    ),
    "avqa": ({"id": 1, "question_text": "What?", "video_name": "1"}, "multi_choice", "answer", indexed),
    "air_bench": (
        {"uniq_id": 1, "path": "1.wav", "question": "What?", "task_name": "t", "dataset_name": "d"},
        "choice_a choice_b choice_c choice_d",
        "answer_gt",
        same,
    ),
    "mapped": (QUESTION, "choices", "label", either),
    "mapped columns": (QUESTION, "o1 o2 o3 o4 o5", "label", either),
    "answer_text": (QUESTION, "choices", "label", same),
    "answer_index": (QUESTION, "o1 o2 o3 o4 o5", "label", lambda own, value: at(own, whole(value))),
    "answer_number": (QUESTION, "choices", "label", lambda own, value: at(own, (whole(value) or 0) - 1)),
    "answer_letter": (QUESTION, "o1 o2 o3 o4 o5", "label", lettered),
}


def cell(value: Any) -> str:
    return json.dumps(value) if isinstance(value, list) else "" if value is None else str(value)


def written(folder: Path, container: str, items: list[dict[str, Any]]) -> Path:
    """Write items, and return the file. Its name does not say what it is."""
    path = folder / "any.file"
    if container == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet needs the extra 'huggingface'")
        import pyarrow

        try:
            table = pyarrow.Table.from_pylist(items)
        except pyarrow.ArrowException:
            assume(False)  # a column has values of one type
        parquet.write_table(table, path)
    elif container in ("csv", "tsv"):
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            rows = csv.DictWriter(file, list(items[0]), dialect="excel" if container == "csv" else "excel-tab")
            rows.writeheader()
            rows.writerows({key: cell(value) for key, value in item.items()} for item in items)
    elif container == "jsonl":
        path.write_text("".join(json.dumps(item) + "\n" for item in items))
    else:
        path.write_text(json.dumps(items if container == "array" else {"version": 1, "data": items}))
    return path


def read_here(path: Path, container: str) -> list[dict[str, Any]]:
    """The items of a file, without the project's code."""
    if container == "parquet":
        import pyarrow.parquet

        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
        return rows
    if container in ("csv", "tsv"):
        with path.open(newline="", encoding="utf-8-sig") as file:
            return list(csv.DictReader(file, dialect="excel" if container == "csv" else "excel-tab"))
    if container == "jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    found = json.loads(path.read_text())
    items: list[dict[str, Any]] = found if container == "array" else found["data"]
    return items


def own_list(item: dict[str, Any], names: str) -> list[Any]:
    if " " in names:
        return [item.get(name) for name in names.split()]
    value = item[names]
    return json.loads(value) if isinstance(value, str) else value  # type: ignore[no-any-return]


@pytest.mark.parametrize("container", ["jsonl", "data", "parquet", "csv"])
@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(drawn=st.lists(st.tuples(options, answers), min_size=1, max_size=3))
def test_an_answer_is_the_one_that_the_file_means(tmp_path: Path, name: str, container: str, drawn: list[Any]) -> None:
    base, choices, key, meaning = FORMATS[name]
    names = choices.split()
    items = [
        base
        | {next(iter(base)): n if isinstance(base[next(iter(base))], int) else f"q{n}"}
        | (dict.fromkeys(names) | dict(zip(names, own, strict=False)) if len(names) > 1 else {choices: own})
        | {key: answer}
        for n, (own, answer) in enumerate(drawn)
    ]
    path = written(tmp_path, container, items)
    mapped = key == "label"
    columns = {name if name.startswith("answer") else "answer": key, "choices": names} if mapped else None
    if columns is not None and len(names) == 1:
        columns["choices"] = choices
    try:
        found = read_questions(path, format="mapped" if mapped else name, columns=columns, check_audio=False)
    except DatasetError as error:
        assert "left out" in str(error), error  # of MMAU-Pro, which has other items too
        return
    in_file = read_here(path, container)
    assert len(found.questions) + len(found.problems) == len(in_file) == len(drawn)
    for question in found.questions:
        own = own_list(in_file[question.index], choices)
        assert [str(option) for option in own if not blank(option)] == [c for c in question.choices if c.strip()]
        assert meaning(own, in_file[question.index][key]) == {question.answer}
    for problem in found.problems:
        assert problem.kind in (ProblemKind.ANSWER, ProblemKind.ITEM, ProblemKind.NOT_SINGLE_CHOICE)


@pytest.mark.parametrize("container", ["jsonl", "array", "data", "parquet", "csv", "tsv"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_clear_answer_is_read_from_every_container(tmp_path: Path, name: str, container: str) -> None:
    """The property above does not hold because everything is refused."""
    base, choices, key, _ = FORMATS[name]
    own, names = ["a dog", "a cat", "rain", "wind"], choices.split()
    said = {"avqa": 2, "answer_index": 2, "answer_number": 3, "answer_letter": "C"}.get(name, "rain")
    item = base | (dict(zip(names, own, strict=False)) if len(names) > 1 else {choices: own}) | {key: said}
    columns: Any = None
    if key == "label":
        columns = {name if name.startswith("answer") else "answer": key}
        columns["choices"] = names[:4] if len(names) > 1 else choices
    path = written(tmp_path, container, [item])
    detected = read_questions(path, columns=columns, check_audio=False)
    assert [(question.answer, list(question.choices)) for question in detected.accepted()] == [("rain", own)]
