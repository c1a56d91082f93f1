"""All rewards and figures take the same answer out of a completion, and compare it in the same way."""

import asyncio
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio_qa.answer import extract_answer
from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from audio_qa.scoring.rules import PAPER, strictly_right
from orchestrator.evaluation.evaluate import evaluate
from protocol.rollout import Completion, Group, RolloutRequest, Sampling, StopReason
from reward.consistency import consistency
from reward.functions import accuracy
from reward.group_rewards import length_of, majority
from reward.settings import LengthUnit

CHOICES = ("2/4", "3/4", "6/8", "a cafe\u0301", "tea")
QUESTION = Question("d", 0, "q", "/clip.wav", "What is heard?", CHOICES, "3/4")
pieces = st.sampled_from(["<answer>", "</answer>", "<think>", "</think>", " ", ". ", "0.75", "a caf\u00e9", *CHOICES])
completions = st.lists(pieces, max_size=10).map("".join)


def group(*texts: str, question: Question = QUESTION) -> Group:
    said = tuple(Completion((1,), (-0.1,), text, StopReason.STOP) for text in texts)
    return Group(question, PromptTemplate.THINK, (1, 2), said, weight_version=0, worker="w")


def evaluated(*texts: str, question: Question = QUESTION) -> float | None:
    async def generate(requests: list[RolloutRequest], sampling: Sampling) -> list[Group]:
        return [group(*texts, question=request.question) for request in requests]

    samples = {"samples": len(texts), "temperature": 1.0 if len(texts) > 1 else 0.0}
    return asyncio.run(evaluate(generate, [question], PromptTemplate.THINK, 8, controls=(), **samples)).total.accuracy


@given(completions, st.sampled_from(CHOICES))
def test_every_reward_and_figure_judges_the_same_answer(text: str, answer: str) -> None:
    question = replace(QUESTION, answer=answer)
    said = extract_answer(text)
    right = accuracy(question, text, PromptTemplate.THINK)
    assert right == accuracy(question, said, PromptTemplate.THINK)
    assert right == evaluated(text, question=question) == evaluated(text, text, question=question)
    prediction = PAPER.prediction(text, question)
    assert PAPER.official(prediction, question) is bool(right)
    assert strictly_right(PAPER.meant(prediction, question), question) <= right
    assert majority(group(text, text, question=question)) == [float(bool(said))] * 2
    if consistency(question, text, PromptTemplate.THINK):
        # Consistent completions give an option.
        assert any(accuracy(replace(question, answer=choice), text, PromptTemplate.THINK) for choice in CHOICES)


@pytest.mark.parametrize(
    ("text", "right", "consistent"),
    [
        ("<think>Not <answer>tea</answer>. It is 3/4.</think><answer>3/4</answer>", 1, 1),
        ("<think>It is <answer>3/4</answer>.</think><answer>tea</answer>", 0, 0),
        # An answer in truncated thinking is not given.
        ("<think>It is 3/4, so <answer>3/4</answer>", 0, 0),
        ("<think>tea?</think><think>No: 3/4.</think><answer>3/4</answer>", 1, 1),
        ("<think>I use <think> tags. It is 3/4.</think><answer>3/4</answer>", 1, 1),
        ("<answer>3/4</answer><think>It is 3/4.</think>", 1, 0),
        # Another choice of the same value is wrong, another notation of it is not.
        ("<think>It is 6/8.</think><answer>6/8</answer>", 0, 1),
        ("<think>It is 0.75.</think><answer>0.75</answer>", 1, 0),
    ],
)
def test_accuracy_and_consistency_by_hand(text: str, right: int, consistent: int) -> None:
    assert accuracy(QUESTION, text, PromptTemplate.THINK) == right == evaluated(text)
    assert consistency(QUESTION, text, PromptTemplate.THINK) == consistent


def test_all_thinking_counts_for_its_length() -> None:
    text = "<think>It barks.</think> or <think>does it</think><answer>tea</answer>"
    assert length_of(group(text).completions[0], LengthUnit.THINKING_WORDS) == 4


def test_the_majority_is_counted_in_all_notations() -> None:
    # Three say the same number, which is not an option of its own.
    assert majority(group("tea", "tea", "2/4", "0.5", "1/2")) == [0, 0, 1, 1, 1]
    # Two options of the same value are two answers.
    assert majority(group("6/8", "3/4", "6/8", "3/4", "tea")) == [1, 0, 1, 0, 0]
    assert evaluated("6/8", "3/4", "6/8") == 0
    assert evaluated("tea", "tea", "2/4", "0.5", "1/2", question=replace(QUESTION, answer="2/4")) == 1


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_rewards_compare_in_one_normal_form(form: str) -> None:
    said = unicodedata.normalize(form, "<think>It smells of a café.</think><answer>a café</answer>")
    question = replace(QUESTION, answer=CHOICES[3])
    assert accuracy(question, said, PromptTemplate.THINK) == 1
    assert consistency(question, said, PromptTemplate.THINK) == 1
    assert evaluated(said, question=question) == 1
    other = unicodedata.normalize("NFC" if form == "NFD" else "NFD", said)
    assert majority(group("tea", "tea", said, other, said)) == [0, 0, 1, 1, 1]
