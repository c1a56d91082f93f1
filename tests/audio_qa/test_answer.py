"""Judgement of answers, against the published code's regular expressions, and on MMAU's real questions."""

import json
import re
import time
import unicodedata
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.shared_files import shared_file

from audio_qa.answer import (
    answer_key,
    chance,
    extract_answer,
    format_ok,
    is_correct,
    means_the_same,
    mmau_correct,
    split_thinking,
)
from audio_qa.prompt import PromptTemplate, solution_text
from audio_qa.question import Question

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
        # Opened twice: the innermost is complete.
        ("<answer><answer>dog</answer></answer>", "dog"),
        ("<answer>I say <answer>dog</answer>", "dog"),
        # Thinking comes off first, whatever it has inside.
        ("<think>The form is <answer> </answer>. It barks.</think><answer>dog</answer>", "dog"),
        ("<think>cat?</think> dog", "dog"),
        ("<think>a</think><think>or <answer>cat</answer></think><answer>dog</answer>", "dog"),
        ("<answer>cat</answer><think>No.</think><answer>dog</answer>", "dog"),
        ("<think>I use <think> and <answer>cat</answer>.</think><answer>dog</answer>", "dog"),
        ("<think>First <think>, </think>, <answer>cat</answer>.</think><answer>dog</answer>", "dog"),
        ("<think>a</think><answer>dog</answer><think>or <answer>cat</answer></think>", "dog"),
        # The prompt may have opened it.
        ("It is <answer>cat</answer>?</think><answer>dog</answer>", "dog"),
        ("It barks.</think> dog", "dog"),
        ("<answer>dog</answer></think>\n", "dog"),
        # Truncated thinking has no answer; complete thinking after the answer leaves it.
        ("<think>It is <answer>dog</answer>", ""),
        ("<think>It is <answer>dog</answer></think>", ""),
        ("<answer>dog</answer><think>because", "dog"),
        ("<answer>dog</answer> <think>It barks.</think>", "dog"),
        ("<think>a</think><answer>cat", "<answer>cat"),
    ],
)
def test_the_answer_is_taken_out_of_its_first_tags_after_the_thinking(text: str, answer: str) -> None:
    assert extract_answer(text) == answer


def answer_by_patterns(text: str) -> str:
    """The answer by regular expressions, which may take any time."""
    text = re.sub("<think>.*?</think>", "\0", text, flags=re.DOTALL)
    before, *rest = re.split("(\0|</think>)", re.sub("<think>.*", "", text, flags=re.DOTALL))
    after: str | None = None
    for end, said in zip(rest[::2], rest[1::2], strict=True):
        if end == "\0":
            after = (after or "") + said
        elif said.strip():
            before, after = ("", said) if after is None else (before, said)
    text = after if after and after.strip() else before
    match = re.search("<answer>((?:(?!</?answer>).)*)</answer>", text, re.DOTALL)
    return (match[1] if match else text).strip()


@given(tagged_texts)
@settings(max_examples=500)
def test_extraction_agrees_with_regular_expressions(text: str) -> None:
    assert extract_answer(text) == answer_by_patterns(text)


@given(tagged_texts)
def test_an_answer_that_is_judged_again_stays_the_same(text: str) -> None:
    answer = extract_answer(text)
    assert "</think>" not in answer
    assert extract_answer(answer) == answer


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


@given(st.text(min_size=1).filter(lambda text: not re.search("</?(?:answer|think)>", text)))
@example(unicodedata.normalize("NFD", "café"))
@example("\u00a0")
def test_the_solution_to_every_prompt_is_correct_and_well_formed(answer: str) -> None:
    for template in (PromptTemplate.PLAIN, PromptTemplate.ANSWER):
        solution = solution_text(answer, template)
        assert format_ok(solution, template)
        # A blank answer is not known: it cannot be right.
        for said in (solution, unicodedata.normalize("NFC", solution)):
            assert is_correct(said, answer) is bool(answer.strip())
            assert is_correct(said, answer, ("a dog", answer, "2")) is bool(answer.strip())


@pytest.mark.parametrize(
    ("said", "answer", "choices", "right"),
    [
        # Another choice, letter by letter, is wrong.
        ("6/8", "3/4", ("2/4", "3/4", "6/8"), False),
        ("3/4", "6/8", ("2/4", "3/4", "6/8"), False),
        (" 6/8\n", "3/4", ("3/4", " 6/8"), False),
        ("2.0", "2", ("2", "2.0"), False),
        # Notations that are not choices are compared by value.
        ("0.75", "3/4", ("2/4", "3/4", "6/8"), True),
        ("1/2", "2/4", ("2/4", "3/4", "6/8"), True),
        ("2.0", "2", ("2", "3"), True),
        # Choices with the same text are both right.
        ("2", "2", ("2", "3", "2"), True),
        ("a dog", "a dog ", ("a dog", "a dog "), True),
        ("cafe\u0301", "caf\u00e9", ("tea", "caf\u00e9"), True),
        ("caf\u00e9", "cafe\u0301", ("tea", "cafe\u0301"), True),
        ("\u212b", "\u00c5", ("A", "\u00c5"), True),
        # One normal form, and no more: these differ.
        ("a\u00a0dog", "a dog", ("a dog", "a cat"), False),
        ("\uff12", "2", ("2", "3"), False),
        ("\ufb01sh", "fish", ("fish", "cat"), False),
        ("", "", ("a dog", "a cat"), False),
        ("", "", ("", "a cat"), False),
    ],
)
def test_what_an_answer_means_depends_on_the_other_choices(
    said: str, answer: str, choices: tuple[str, ...], right: bool
) -> None:
    assert is_correct(f"<answer>{said}</answer>", answer, choices) is right
    assert means_the_same(said, answer, choices) is right
    if answer in choices:
        # Votes agree, except that a value that two choices have is of neither.
        same = answer_key(said, choices) == answer_key(answer, choices)
        assert same is (right and said != "0.75") or not answer


@pytest.mark.parametrize(
    "text",
    [
        "<answer>" * 200_000,
        "<think>" * 100_000,
        "</think>" * 100_000,
        "<think></think>" * 50_000,
        "<think>a</think>b</think>" * 50_000,
        "<answer>" + "a" * 1_000_000 + "</answer>" * 100_000,
        "a" + "\u0315\u0300" * 100_000,
        "<answer>" + "a\u0300" * 200_000 + "</answer>",
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
    split_thinking(text)
    is_correct(text, "2")
    is_correct(text, text)
    is_correct(text, text, (text, "2"))
    answer_key(text, ("2", "3"))
    mmau_correct(text, "dog", ["dog", "cat"])
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


def test_chance_counts_the_choices_that_are_right_in_any_unicode_form() -> None:
    def by_chance(*choices: str, answer: str) -> float:
        return chance(Question("d", 0, "1", "1.wav", "?", choices, answer))

    assert by_chance("caf\u00e9", "tea", "cafe\u0301", "milk", answer="caf\u00e9") == 0.5
    assert by_chance("2/4", "3/4", "6/8", answer="3/4") == pytest.approx(1 / 3)
    assert by_chance("a dog", "a cat", answer="") == 0
