"""The paper's reward functions (arXiv 2503.11197).

Reward functions are pure: the same question, completion and prompt give the same number, and calls may be repeated.
"""

from collections.abc import Callable

from audio_qa.answer import format_ok, is_correct
from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question

RewardFunction = Callable[[Question, str, PromptTemplate], float]
"""(question, text of the completion, prompt template) -> reward, a finite number."""


def accuracy(question: Question, completion_text: str, template: PromptTemplate) -> float:
    """Return 1.0 if the completion's answer is right (`audio_qa.answer.is_correct`), else 0.0."""
    return float(is_correct(completion_text, question.answer, question.choices))


def format(question: Question, completion_text: str, template: PromptTemplate) -> float:
    """Return 1.0 if the completion has the format that its prompt requests (`audio_qa.answer.format_ok`), else 0.0."""
    return float(format_ok(completion_text, template))
