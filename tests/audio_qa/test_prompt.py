"""The paper's prompts, verbatim."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio_qa.prompt import PromptTemplate, solution_text, user_text
from audio_qa.question import Question

STEM = "What is heard? Please choose the answer from the following options: ['a dog', \"a cat's purr\"]."


@pytest.fixture
def question() -> Question:
    return Question("d", 0, "q", "/clip.wav", "What is heard?", ("a dog", "a cat's purr"), "a dog")


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (PromptTemplate.PLAIN, STEM),
        (PromptTemplate.ANSWER, STEM + " Output the final answer in <answer> </answer>."),
        (
            PromptTemplate.THINK,
            STEM + " Output the thinking process in <think> </think> and final answer in <answer> </answer>.",
        ),
    ],
)
def test_the_user_turn_is_the_papers(question: Question, template: PromptTemplate, text: str) -> None:
    assert user_text(question, template) == text


@given(
    st.lists(st.text(min_size=1) | st.sampled_from(["\U0001f3f4\u200d\u2620\ufe0f", "a\u00a0cat", "1\\2"]), min_size=2)
)
def test_a_model_reads_the_choices_as_it_must_say_them(choices: list[str]) -> None:
    question = Question("d", 0, "q", "/clip.wav", "?", tuple(choices), choices[0])
    text = user_text(question, PromptTemplate.PLAIN)
    assert all(choice in text for choice in choices)
    if not any("\\" in repr(choice) for choice in choices):
        assert text == f"? Please choose the answer from the following options: {choices}."


def test_templates_are_named_as_in_the_paper() -> None:
    assert [PromptTemplate(name) for name in ("1", "2", "3")] == list(PromptTemplate)


def test_only_a_prompt_that_asks_for_tags_has_them_in_its_solution() -> None:
    assert [solution_text("a dog", template) for template in PromptTemplate] == [
        "a dog",
        "<answer>a dog</answer>",
        "<answer>a dog</answer>",
    ]
