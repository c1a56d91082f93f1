"""The paper's prompts, verbatim."""

import pytest

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


def test_templates_are_named_as_in_the_paper() -> None:
    assert [PromptTemplate(name) for name in ("1", "2", "3")] == list(PromptTemplate)


def test_only_a_prompt_that_asks_for_tags_has_them_in_its_solution() -> None:
    assert [solution_text("a dog", template) for template in PromptTemplate] == [
        "a dog",
        "<answer>a dog</answer>",
        "<answer>a dog</answer>",
    ]
