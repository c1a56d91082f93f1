"""The paper's three prompts (arXiv 2503.11197): the text that follows the audio in the user's turn."""

from collections.abc import Sequence
from enum import StrEnum

from audio_qa.question import Question


class PromptTemplate(StrEnum):
    """One of the paper's prompts."""

    PLAIN = "1"
    """The question and its options; used for supervised fine-tuning."""
    ANSWER = "2"
    """Requests the answer in `<answer> </answer>`: the best prompt in the paper."""
    THINK = "3"
    """Requests the thinking in `<think> </think>`, then the answer in `<answer> </answer>`."""


_INSTRUCTION = {
    PromptTemplate.PLAIN: "",
    PromptTemplate.ANSWER: " Output the final answer in <answer> </answer>.",
    PromptTemplate.THINK: " Output the thinking process in <think> </think> and final answer in <answer> </answer>.",
}


def user_text(question: Question, template: PromptTemplate) -> str:
    """Return the text of the user's turn. Options are written as a Python list, in the order of the question."""
    options = options_text(question.choices)
    return f"{question.text} Please choose the answer from the following options: {options}." + _INSTRUCTION[template]


def options_text(choices: Sequence[str]) -> str:
    """Return the options as prompts have them: a Python list without escapes."""
    return f"[{', '.join(map(_quoted, choices))}]"


def _quoted(choice: str) -> str:
    """Return a choice as Python writes it, but without escapes: a model repeats what it reads, and must be right."""
    written = repr(choice)
    return f"{written[0]}{choice}{written[0]}" if "\\" in written else written


def solution_text(answer: str, template: PromptTemplate) -> str:
    """Return the right answer in the format of the prompt: the target of supervised training."""
    return answer if template is PromptTemplate.PLAIN else f"<answer>{answer}</answer>"
