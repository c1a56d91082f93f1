"""Judgement of answers, against the published code's regular expressions, and on MMAU's real questions."""

import json
import re
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.shared_files import shared_file

from audio_qa.answer import extract_answer, format_ok, is_correct, mmau_correct
from audio_qa.prompt import PromptTemplate, solution_text

# Texts made of the relevant parts, in any order.
pieces = st.sampled_from(["<answer>", "</answer>", "<think>", "</think>", " ", "\n", "a", "2", "</answer", "<", "\t"])
tagged_texts = st.lists(pieces, max_size=12).map("".join)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>dog</answer>", "dog"),
        ("I think <answer> a dog\n</answer> yes", "a dog"),
        ("<answer>one</answer><answer>two</answer>", "one"),
        ("<answer>two\nlines</answer>", "two\nlines"),
        ("  dog \n", "dog"),
        ("<answer>dog", "<answer>dog"),
        ("</answer>dog<answer>", "</answer>dog<answer>"),
        ("<answer></answer>", ""),
        ("", ""),
    ],
)
def test_the_answer_is_taken_out_of_its_first_tags(text: str, answer: str) -> None:
    assert extract_answer(text) == answer


@given(tagged_texts)
def test_extraction_agrees_with_the_regular_expression(text: str) -> None:
    match = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL)
    assert extract_answer(text) == (match[1] if match else text).strip()


@given(tagged_texts)
@example("<answer>a</answer>")
@example("<think>a</think>\n<answer>2</answer>")
@example("<answer></answer><answer></answer>")
@example("<answer>")
def test_the_form_agrees_with_the_published_regular_expressions(text: str) -> None:
    answer = re.fullmatch(r"<answer>.*?</answer>", text, re.DOTALL)
    think = re.fullmatch(r"<think>.*?</think>\s*<answer>.*?</answer>", text, re.DOTALL)
    assert format_ok(text, PromptTemplate.ANSWER) == bool(answer)
    assert format_ok(text, PromptTemplate.THINK) == bool(think)
    assert format_ok(text, PromptTemplate.PLAIN)


@pytest.mark.parametrize("text", [" <answer>a</answer>", "<answer>a</answer>\n", "<answer>a</answer>.", "a", ""])
def test_nothing_may_stand_around_the_answer(text: str) -> None:
    assert not format_ok(text, PromptTemplate.ANSWER)


@pytest.mark.parametrize(
    "text",
    [
        "<answer>a</answer>",
        "<think>t</think> so <answer>a</answer>",
        "<think>t<answer>a</answer>",
        "<answer>a</answer><think>t</think>",
    ],
)
def test_thinking_comes_first_and_is_followed_by_the_answer_alone(text: str) -> None:
    assert not format_ok(text, PromptTemplate.THINK)


@pytest.mark.parametrize(
    ("prediction", "answer", "right"),
    [
        ("<answer>a dog</answer>", "a dog", True),
        ("a dog", " a dog ", True),
        ("<answer>A dog</answer>", "a dog", False),
        ("<answer>a dog.</answer>", "a dog", False),
        ("It is a dog", "a dog", False),
        ("", "a dog", False),
        ("<answer>2.0</answer>", "2", True),
        ("<answer>2</answer>", "2.0", True),
        ("<answer>1/2</answer>", "0.5", True),
        ("<answer>2/4</answer>", "1/2", True),
        ("-.5", "-0.50", True),
        ("+3", "3.", True),
        ("2", "3", False),
        ("1/0", "1/0", True),
        ("2/0", "1/0", False),
        ("2 dogs", "2", False),
        ("two cars, 3 dogs", "3", False),
        ("1e3", "1000", False),
        ("٣", "3", False),
        ("1_000", "1000", False),
        ("nan", "nan", True),
    ],
)
def test_correctness(prediction: str, answer: str, right: bool) -> None:
    assert is_correct(prediction, answer) is right


@given(st.text(min_size=1).filter(lambda text: "<answer>" not in text))
def test_the_solution_to_every_prompt_is_correct_and_well_formed(answer: str) -> None:
    for template in (PromptTemplate.PLAIN, PromptTemplate.ANSWER):
        solution = solution_text(answer, template)
        assert format_ok(solution, template)
        assert is_correct(solution, answer) or "</answer>" in answer


@pytest.mark.parametrize(
    "text",
    [
        "<answer>" * 200_000,
        "<think>" + "</think> " * 200_000 + "</answer>",
        "<think></think>" + " " * 1_000_000 + "</answer>",
        "9" * 1_000_000,
        "1/" + "9" * 1_000_000,
        " " * 1_000_000 + "x",
    ],
)
def test_hostile_texts_take_no_time(text: str) -> None:
    start = time.perf_counter()
    extract_answer(text)
    is_correct(text, "2")
    is_correct(text, text)
    for template in PromptTemplate:
        format_ok(text, template)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    ("prediction", "right"),
    [
        ("Man", True),
        ("a man's voice", True),
        ("MAN!", True),
        ("Man or Woman", False),
        ("Woman", False),
        ("human", False),
        ("", False),
        ("?!", False),
    ],
)
def test_mmau_matches_words(prediction: str, right: bool) -> None:
    assert mmau_correct(prediction, "Man", ["Man", "Woman", "Child"]) is right


def test_words_shared_with_wrong_choices_do_not_count_against_the_answer() -> None:
    assert mmau_correct("a dog barks", "dog barks", ["dog barks", "dog howls"])


@pytest.fixture(scope="module")
def mmau() -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = json.loads(shared_file("mmau-test-mini.json").read_text(encoding="utf-8"))
    return items


def test_on_mmau_every_right_answer_is_right_and_silence_is_wrong(mmau: list[dict[str, Any]]) -> None:
    assert len(mmau) == 1000
    for item in mmau:
        assert mmau_correct(item["answer"], item["answer"], item["choices"])
        assert not mmau_correct("", item["answer"], item["choices"])


def test_on_mmau_a_wrong_choice_is_wrong_unless_its_words_are_the_answers(mmau: list[dict[str, Any]]) -> None:
    def words(text: str) -> set[str]:
        return set(re.findall(r"\w+", text.lower()))

    wrong = [(item, choice) for item in mmau for choice in item["choices"] if choice != item["answer"]]
    accepted = [(item, choice) for item, choice in wrong if mmau_correct(choice, item["answer"], item["choices"])]
    containing = [(item, choice) for item, choice in wrong if words(choice) >= words(item["answer"])]
    # Of the 25 wrong choices with every word of the answer, 13 have another word too, which identifies them; the
    # other 12 ("first: neutral, second: frustration" for the reverse) have the same words as the answer.
    assert (len(wrong), len(containing), len(accepted)) == (2958, 25, 12)
    assert accepted == [(item, choice) for item, choice in containing if words(choice) == words(item["answer"])]
