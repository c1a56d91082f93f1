"""The consistency reward on texts judged by hand."""

import time

import pytest

from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from reward.consistency import consistency

SOUNDS = ("a dog", "a cat", "a dog barking")
NUMBERS = ("1", "10", "1.5", "two")
LETTERS = ("A", "B")


def rated(choices: tuple[str, ...], text: str) -> float:
    question = Question("d", 0, "q", "/clip.wav", "What is heard?", choices, choices[0])
    return consistency(question, text, PromptTemplate.THINK)


def said(thinking: str, answer: str) -> str:
    return f"<think>{thinking}</think> <answer>{answer}</answer>"


@pytest.mark.parametrize(
    ("choices", "thinking", "answer", "reward"),
    [
        (SOUNDS, "It barks, so it is a dog.", "a dog", 1),
        (SOUNDS, "It barks, so it is a dog.", "a cat", 0),
        # The reward does not depend on the right answer, which is the first option.
        (SOUNDS, "It meows: a cat", "a cat", 1),
        (SOUNDS, "It MEOWS: A Cat!", "A CAT", 1),
        (SOUNDS, "It barks.", "a dog", 0),
        (SOUNDS, "", "a dog", 0),
        # Sentences before the last one that names an option do not matter.
        (SOUNDS, "A cat would meow. This barks, so it is a dog. I am sure.", "a dog", 1),
        (SOUNDS, "This is a dog. No, listening again, it is a cat.", "a dog", 0),
        (SOUNDS, "This is a dog.\nIt could be a cat\nbut a dog barks", "a dog", 1),
        (SOUNDS, "It is a dog, not a cat.", "a dog", 0),
        (SOUNDS, "It is a dog, surely a dog.", "a dog", 1),
        # The longest option counts, and only whole words.
        (SOUNDS, "This is a dog barking", "a dog barking", 1),
        (SOUNDS, "This is a dog barking", "a dog", 0),
        (SOUNDS, "This is a dogged cat", "a dog", 0),
        (SOUNDS, "This is a\n  dog barking", "a dog   barking", 1),
        (SOUNDS, "This is a dog", "a wolf", 0),
        (NUMBERS, "I count 10.", "10", 1),
        (NUMBERS, "I count 10.", "1", 0),
        (NUMBERS, "It lasts 1.5 s", "1.5", 1),
        (NUMBERS, "It lasts 1.5 s", "1", 0),
        (NUMBERS, "It lasts 2.1 s", "1", 0),
        (NUMBERS, "Two.", "two", 1),
        # An option of one letter is not the article.
        (LETTERS, "This is a bell, which is B", "B", 1),
        (LETTERS, "This is a bell", "A", 0),
    ],
)
def test_by_hand(choices: tuple[str, ...], thinking: str, answer: str, reward: float) -> None:
    assert rated(choices, said(thinking, answer)) == reward


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a dog",
        "<answer>a dog</answer>",
        "<think>a dog</think>",
        "<think>a dog</think> a dog",
        "<think>a dog <answer>a dog</answer>",
        "<answer>a dog</answer> <think>a dog</think>",
    ],
)
def test_without_both_parts_in_order_there_is_nothing_to_agree(text: str) -> None:
    assert rated(SOUNDS, text) == 0


def test_time_is_linear_in_the_text() -> None:
    for hostile in ("<think>" * 100_000, said("a dog " * 100_000, "a dog"), said("a" + " " * 300_000, "a dog")):
        started = time.monotonic()
        rated(SOUNDS, hostile)
        assert time.monotonic() - started < 20
