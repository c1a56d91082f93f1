"""The paper's three ways of asking (arXiv 2503.11197): the text that follows the audio in the user's turn."""

from enum import StrEnum

from audio_qa.question import Question


class PromptTemplate(StrEnum):
    """Which of the paper's prompts a job uses."""

    PLAIN = "1"
    """The question and its options; used for supervised fine-tuning."""
    ANSWER = "2"
    """Asks for the answer in `<answer> </answer>`: the paper's best."""
    THINK = "3"
    """Asks for the thinking in `<think> </think>`, then the answer in `<answer> </answer>`."""


_INSTRUCTION = {
    PromptTemplate.PLAIN: "",
    PromptTemplate.ANSWER: " Output the final answer in <answer> </answer>.",
    PromptTemplate.THINK: " Output the thinking process in <think> </think> and final answer in <answer> </answer>.",
}


def user_text(question: Question, template: PromptTemplate) -> str:
    """The text of the user's turn. Options are shown as a Python list, in the question's own order."""
    stem = f"{question.text} Please choose the answer from the following options: {list(question.choices)!r}."
    return stem + _INSTRUCTION[template]


def solution_text(answer: str, template: PromptTemplate) -> str:
    """What a right answer to this prompt looks like: the target of supervised training."""
    return answer if template is PromptTemplate.PLAIN else f"<answer>{answer}</answer>"
