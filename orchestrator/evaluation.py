"""Answers to held-out questions, and the control that the model listens: the same with silence for the clip."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass

from audio_qa.answer import extract_answer, is_correct
from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from audio_qa.scoring.sampling import majority_vote
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
    answers: tuple[tuple[str, ...] | None, ...] = ()
    """What was answered to each question, hearing its clip: its completions; None where it could not be asked."""

    def as_event(self) -> dict[str, object]:
        """Plain data, as events and results hold it; the figures without the answers."""
        return {
            **asdict(self.total),
            "by_task": {k: asdict(v) for k, v in self.by_task.items()},
            "by_category": {k: asdict(v) for k, v in self.by_category.items()},
        }


async def evaluate(
    generate: Generate,
    questions: Sequence[Question],
    template: PromptTemplate,
    max_tokens: int,
    *,
    samples: int = 1,
    temperature: float = 0.0,
) -> Evaluation:
    """Ask every question twice, with its clip and with silence, and judge by the paper's rule.

    Args:
        samples: completions a question; of several, the majority's answer counts.
        temperature: 0 answers greedily, which several samples make no sense with.
    """
    requests = [RolloutRequest(q, template, seed=0, silent=silent) for silent in (False, True) for q in questions]
    answers = await generate(requests, Sampling(group_size=samples, max_tokens=max_tokens, temperature=temperature))
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
            sum(questions[i].chance for i in places) / n,
            n,
            sum(failed[i] for i in places),
        )

    return Evaluation(
        accuracy(range(len(questions))),
        {name: accuracy(places) for name, places in sorted(by_task.items())},
        {name: accuracy(places) for name, places in sorted(by_category.items())},
        tuple(_texts(answer) for answer in heard),
    )


def _is_right(answer: Group | FailedQuestion) -> bool:
    texts = _texts(answer)
    if texts is None:
        return False
    said = texts[0] if len(texts) == 1 else majority_vote([extract_answer(text) for text in texts])
    return is_correct(said, answer.question.answer)


def _texts(answer: Group | FailedQuestion) -> tuple[str, ...] | None:
    return tuple(completion.text for completion in answer.completions) if isinstance(answer, Group) else None
