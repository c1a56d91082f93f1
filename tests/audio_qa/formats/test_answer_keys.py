"""The answer of a mapped file, where an index, a number, a letter and a choice could be confused."""

import json
from pathlib import Path
from typing import Any

import pytest

from audio_qa.dataset import DatasetError
from audio_qa.files.reader import read_questions
from audio_qa.formats.item import Answers
from audio_qa.formats.mapped import check_columns
from audio_qa.formats.question_set import ProblemKind, QuestionSet

BASE = {"id": "q1", "audio": "1.wav", "question": "What is heard?"}
SEVERAL = ["o1", "o2", "o3", "o4"]


def read(folder: Path, *items: dict[str, Any], columns: dict[str, Any], **options: Any) -> QuestionSet:
    path = folder / "any.jsonl"
    path.write_text("".join(json.dumps(BASE | {"id": f"q{i}"} | item) + "\n" for i, item in enumerate(items)))
    return read_questions(path, columns=columns, check_audio=False, **options)


def options(*values: object) -> dict[str, object]:
    return {f"o{number}": value for number, value in enumerate(values, start=1)}


@pytest.mark.parametrize("gap", ["", " ", None])
@pytest.mark.parametrize("together", [True, False])
def test_an_index_counts_the_blank_choices_that_are_left_out(tmp_path: Path, gap: str | None, together: bool) -> None:
    own = ["a dog", gap, "a cat", "rain"]
    item = {"choices": own} if together else options(*own)
    columns = {"answer": "label"} | ({} if together else {"choices": SEVERAL})
    (question,) = read(tmp_path, item | {"label": 2}, columns=columns).accepted()
    assert (question.choices, question.answer) == (("a dog", "a cat", "rain"), "a cat")
    (problem,) = read(tmp_path, item | {"label": 1}, columns=columns).problems
    assert problem.kind is ProblemKind.ANSWER
    assert "answer 1 names a choice that is blank (counted from 0)" in str(problem)
    (problem,) = read(tmp_path, item | {"label": 4}, columns=columns).problems
    assert "there are 4, counted from 0" in str(problem)


@pytest.mark.parametrize("own", [["1", "2", "3"], [1, 2, 3], [1.0, 2.0, 3.0], ["1", "two", "3"], ["1 %", "1/2", "3"]])
@pytest.mark.parametrize("label", [1, 1.0])
def test_a_number_among_numbers_is_refused_unless_its_key_says_what_it_is(
    tmp_path: Path, own: list[Any], label: float
) -> None:
    item = {"choices": own, "label": label}
    (problem,) = read(tmp_path, item, columns={"answer": "label"}).problems
    assert problem.kind is ProblemKind.ANSWER
    assert "'answer_text' or 'answer_index' (from 0) instead of 'answer'" in str(problem)
    (by_index,) = read(tmp_path, item, columns={"answer_index": "label"}).accepted()
    (by_number,) = read(tmp_path, item, columns={"answer_number": "label"}).accepted()
    assert (by_index.answer, by_number.answer) == (str(own[1]), str(own[0]))
    by_text = read(tmp_path, item, columns={"answer_text": "label"})
    equal = [str(option) for option in own if str(option) in ("1", "1.0")]
    assert [question.answer for question in by_text.questions] == equal


@pytest.mark.parametrize(
    ("own", "label", "answer"),
    [
        (["a dog", "a cat"], 1, "a cat"),
        (["a dog", "a cat"], "1", "a cat"),
        (["a dog", "a cat"], 1.0, "a cat"),
        (["a dog", "A"], "A", "A"),
        (["B", "A"], "A", "A"),
        (["10", "20"], "20", "20"),  # 20 is beyond every index
        (["0", "1"], "1", "1"),  # both readings agree
        (["1", "2", "3"], "1", None),
        (["1", "2"], "0", None),
        (["a dog", "a cat"], True, None),
        (["a dog", "a cat"], "A", None),
        (["a dog", "a cat"], "a dog ", None),
        (["a dog", "a cat"], -1, None),
        (["a dog", "a cat"], 1.5, None),
        ([True, False], True, None),
        ([True, False], 0, None),
    ],
)
def test_answers_without_a_key_of_their_own(tmp_path: Path, own: list[Any], label: Any, answer: str | None) -> None:
    found = read(tmp_path, {"choices": own, "label": label}, columns={"answer": "label"})
    assert [question.answer for question in found.questions] == ([] if answer is None else [answer])
    assert len(found.problems) == (answer is None)


def test_letters_have_a_key(tmp_path: Path) -> None:
    item = {"choices": ["a dog", "a cat", "rain"]}
    (problem,) = read(tmp_path, item | {"label": "B"}, columns={"answer": "label"}).problems
    assert "'B' is not among the choices" in str(problem)
    assert "name the column with 'answer_letter' instead of 'answer'" in str(problem)
    for letter in ("B", "b", "(B)", "B.", " B "):
        (question,) = read(tmp_path, item | {"label": letter}, columns={"answer_letter": "label"}).accepted()
        assert question.answer == "a cat"
    for wrong in ("D", "AB", "1", 1, None):
        assert read(tmp_path, item | {"label": wrong}, columns={"answer_letter": "label"}).problems


def test_a_letter_counts_the_choices_that_are_blank(tmp_path: Path) -> None:
    columns = {"choices": SEVERAL, "answer_letter": "label"}
    (question,) = read(tmp_path, options("a", None, "b", "") | {"label": "C"}, columns=columns).accepted()
    assert question.answer == "b"
    assert read(tmp_path, options("a", None, "b", "") | {"label": "D"}, columns=columns).problems


@pytest.mark.parametrize(("label", "answers"), [(True, []), ("1", []), (1, ["2"]), ("0", ["1"])])
def test_avqa_takes_an_index_unless_it_is_text_that_is_a_choice(tmp_path: Path, label: Any, answers: list[str]) -> None:
    path = tmp_path / "avqa.json"
    item = {"id": 1, "video_name": "v", "question_text": "How many?", "multi_choice": ["1", "2", "3"], "answer": label}
    path.write_text(json.dumps([item]))
    found = read_questions(path, check_audio=False)
    assert [question.answer for question in found.questions] == answers


def test_only_one_key_may_name_the_answer() -> None:
    check_columns({"answer_letter": "label", "choices": ("a", "b")})
    with pytest.raises(ValueError, match="keys 'answer' and 'answer_index' all name the answer"):
        check_columns({"answer": "label", "answer_index": "label"})
    with pytest.raises(ValueError, match="did you mean 'answer_index'"):
        check_columns({"answer_idx": "label"})


HIDDEN: list[dict[str, Any]] = [{}, {"answer": None}, {"answer": ""}, {"answer": " "}]


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize(
    "item",
    [
        {"id": "1", "audio": "1.wav", "question": "What?", "choices": ["a", "b"]},
        {"id": "1", "audio_id": "1.wav", "question": "What?", "choices": ["a", "b"]},
        {"id": "1", "audio_path": "1.wav", "question": "What?", "choices": ["a", "b"], "modality": "m"},
        {"id": "1", "audio_path": ["1.wav"], "question": "What?", "choices": ["a", "b"], "length_type": "short"},
        {"id": "1", "video_name": "1", "question_text": "What?", "multi_choice": ["a", "b"]},
        {"path": "1.wav", "question": "?", "choice_a": "a", "choice_b": "b", "task_name": "t", "dataset_name": "d"},
    ],
)
def test_a_hidden_test_set_is_detected_and_read_without_answers(
    tmp_path: Path, item: dict[str, Any], hidden: dict[str, Any]
) -> None:
    key = "answer_gt" if "choice_a" in item else "answer"
    second = {"uniq_id" if "choice_a" in item else "id": "2"}
    if hidden:
        hidden = {key: hidden["answer"]}
    path = tmp_path / "test.json"
    path.write_text(json.dumps([item | hidden, item | hidden | second]))
    found = read_questions(path, check_audio=False, answers=Answers.OPTIONAL)
    assert (found.labelled, [question.answer for question in found.accepted()]) == (False, ["", ""])
    answer: Any = 0 if "multi_choice" in item else "a"
    path.write_text(json.dumps([item | hidden, item | second | {key: answer}]))
    found = read_questions(path, check_audio=False, answers=Answers.OPTIONAL)
    assert (found.labelled, [question.answer for question in found.questions], len(found.problems)) == (True, ["a"], 1)
    with pytest.raises(DatasetError):
        found.accepted()


def test_a_column_named_for_the_answer_that_does_not_exist_is_no_hidden_test_set(tmp_path: Path) -> None:
    found = read(tmp_path, {"choices": ["a", "b"]}, columns={"answer": "labl"}, answers=Answers.OPTIONAL)
    assert "missing key 'labl'" in str(found.problems[0])
    found = read(tmp_path, {"choices": ["a", "b"], "l": None}, columns={"answer": "l"}, answers=Answers.OPTIONAL)
    assert not found.labelled


@pytest.mark.parametrize("columns", [{}, {"answer": "answer"}, {"answer_text": "answer"}])
def test_an_answer_in_another_unicode_form_is_its_choice(tmp_path: Path, columns: dict[str, str]) -> None:
    """Editors and table programs change the form of single cells, which no one sees in a message."""
    own, other = "caf\u00e9", "cafe\u0301"
    (question,) = read(tmp_path, {"choices": ["tea", own], "answer": other}, columns=columns).accepted()
    assert question.answer == own
    both = read(tmp_path, {"choices": ["tea", own, other], "answer": other}, columns=columns or {"id": "id"})
    assert both.accepted()[0].answer == other


def test_a_number_is_the_choice_that_is_written_like_it_before_others_of_its_value(tmp_path: Path) -> None:
    columns = {"answer_text": "label"}
    for label, answer in ((1, "1"), (1.0, "1.0")):
        (question,) = read(tmp_path, {"choices": ["1.0", "1"], "label": label}, columns=columns).accepted()
        assert question.answer == answer
