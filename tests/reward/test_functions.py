"""The paper's two rewards."""

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from reward.functions import accuracy, format


@pytest.mark.parametrize(
    ("text", "template", "rewards"),
    [
        ("<answer>a dog</answer>", PromptTemplate.ANSWER, (1.0, 1.0)),
        ("<answer>a cat</answer>", PromptTemplate.ANSWER, (0.0, 1.0)),
        ("a dog", PromptTemplate.ANSWER, (1.0, 0.0)),
        ("It barks: <answer>a dog</answer>", PromptTemplate.ANSWER, (1.0, 0.0)),
        ("woof", PromptTemplate.ANSWER, (0.0, 0.0)),
        ("<think>woof</think>\n<answer>a dog</answer>", PromptTemplate.THINK, (1.0, 1.0)),
        ("<answer>a dog</answer>", PromptTemplate.THINK, (1.0, 0.0)),
        ("a dog", PromptTemplate.PLAIN, (1.0, 1.0)),
    ],
)
def test_rewards(question: Question, text: str, template: PromptTemplate, rewards: tuple[float, float]) -> None:
    assert (accuracy(question, text, template), format(question, text, template)) == rewards


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(), st.sampled_from(PromptTemplate))
def test_any_text_gets_zero_or_one(question: Question, text: str, template: PromptTemplate) -> None:
    for function in (accuracy, format):
        reward = function(question, text, template)
        assert math.isfinite(reward)
        assert reward in (0.0, 1.0)
