"""Greedy answers to held-out questions, and the control that the model listens: the same with silence for the clip."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass

from audio_qa.answer import is_correct
from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from protocol.rollout import FailedQuestion, Group, RolloutRequest, Sampling

Generate = Callable[[Sequence[RolloutRequest], Sampling], Awaitable[list[Group | FailedQuestion]]]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How some questions were answered. A question whose clip could not be read counts as answered wrong."""

    accuracy: float
    """Share answered right, hearing the clip."""
    silence_accuracy: float
    """Share answered right with silence in the clip's place: what does not come from listening."""
    chance_accuracy: float
    """Expected share right when guessing among the options."""
    count: int
    failed: int
    """Questions that could not be asked."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation: in total, by task and by category."""

    total: Accuracy
    by_task: dict[str, Accuracy]
    by_category: dict[str, Accuracy]

    def as_event(self) -> dict[str, object]:
        """Plain data, as events and results hold it."""
        return {
            **asdict(self.total),
            "by_task": {k: asdict(v) for k, v in self.by_task.items()},
            "by_category": {k: asdict(v) for k, v in self.by_category.items()},
        }


async def evaluate(
    generate: Generate, questions: Sequence[Question], template: PromptTemplate, max_tokens: int
) -> Evaluation:
    """Ask every question twice, with its clip and with silence, and judge by the paper's rule."""
    requests = [RolloutRequest(q, template, seed=0, silent=silent) for silent in (False, True) for q in questions]
    answers = await generate(requests, Sampling(group_size=1, max_tokens=max_tokens, temperature=0.0))
    heard, silent = answers[: len(questions)], answers[len(questions) :]
    right = [_is_right(answer) for answer in heard]
    right_silent = [_is_right(answer) for answer in silent]
    failed = [isinstance(answer, FailedQuestion) for answer in heard]
    by_task: dict[str, list[int]] = defaultdict(list)
    by_category: dict[str, list[int]] = defaultdict(list)
    for i, question in enumerate(questions):
        by_task[question.task or "all"].append(i)
        by_category[question.category or "all"].append(i)

    def accuracy(places: Sequence[int]) -> Accuracy:
        n = len(places)
        return Accuracy(
            sum(right[i] for i in places) / n,
            sum(right_silent[i] for i in places) / n,
            sum(1 / len(questions[i].choices) for i in places) / n,
            n,
            sum(failed[i] for i in places),
        )

    return Evaluation(
        accuracy(range(len(questions))),
        {name: accuracy(places) for name, places in sorted(by_task.items())},
        {name: accuracy(places) for name, places in sorted(by_category.items())},
    )


def _is_right(answer: Group | FailedQuestion) -> bool:
    return isinstance(answer, Group) and is_correct(answer.completions[0].text, answer.question.answer)
