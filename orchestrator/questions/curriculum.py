"""Curriculum: draw questions by their solve rate, those near one half most often, or easy ones first.

Invariant: a draw depends on the job's seed, its position in the stream and the current solve rates. Position and rates
are in every checkpoint, so that a resumed job makes the same draws.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from audio_qa.question import Question
from orchestrator.job.sections.data import CurriculumSection
from orchestrator.questions.solve_rates import SolveRate


def within(
    questions: Sequence[Question], measured: Mapping[str, SolveRate], section: CurriculumSection
) -> list[Question]:
    """Return the questions with a measured solve rate within the section's bounds, and those without one."""
    return [
        question
        for question in questions
        if question.key not in measured
        or section.min_solve_rate <= measured[question.key].share <= section.max_solve_rate
    ]


def easy_first(questions: Sequence[Question], measured: Mapping[str, SolveRate]) -> list[Question]:
    """Sort by decreasing solve rate; ties keep their order, and questions without a rate count as 1/2."""
    return sorted(questions, key=lambda question: -measured.get(question.key, _UNKNOWN).share)


class LearnableSource:
    """An endless stream that prefers questions whose answers are partly correct and partly wrong.

    A question's probability is proportional to p (1 - p), where p is its share of correct answers. That is the variance
    of its reward, which is 0 where all completions get the same reward and there is nothing to learn. Foster et al.,
    2025, "Learning to Reason at the Frontier of Learnability" (arXiv 2502.12272). Questions without a rate count as
    p = 1/2. Each new group halves the weight of a question's earlier groups, since the model changes.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        *,
        seed: int,
        uniform: float,
        measured: Mapping[str, SolveRate],
        running: dict[str, SolveRate],
        position: int = 0,
    ) -> None:
        """Raises ValueError without questions.

        Args:
            uniform: share of draws that are uniform over all questions, so that no question is excluded forever.
            running: solve rates of this job, by question key; `observe` updates it.
        """
        if not questions:
            raise ValueError("a source needs at least one question")
        self._questions, self._seed, self._uniform = questions, seed, uniform
        self._running = running
        self.position = position
        self._rates = [running.get(q.key, measured.get(q.key, _UNKNOWN)) for q in questions]
        self._place = {question.key: place for place, question in enumerate(questions)}
        self._learnable = np.array([rate.share * (1 - rate.share) for rate in self._rates])

    @property
    def epoch(self) -> float:
        """Number of draws divided by the number of questions."""
        return self.position / len(self._questions)

    def draw(self, count: int) -> list[Question]:
        """Return the next `count` questions, without repetition while there are others."""
        drawn: list[Question] = []
        weights = self._weights()
        for _ in range(count):
            if not weights.any():
                weights = self._weights()
            chances = weights / weights.sum()
            place = int(np.random.default_rng([self._seed, self.position]).choice(len(chances), p=chances))
            weights[place] = 0
            drawn.append(self._questions[place])
            self.position += 1
        return drawn

    def observe(self, key: str, correct: int, total: int) -> None:
        """Update a drawn question's solve rate: `correct` of `total` completions were correct."""
        place = self._place[key]
        rate = self._rates[place].followed_by(correct, total)
        self._rates[place] = self._running[key] = rate
        self._learnable[place] = rate.share * (1 - rate.share)

    def _weights(self) -> NDArray[np.float64]:
        """Return each question's probability of being drawn next, up to a factor."""
        total, count = self._learnable.sum(), len(self._questions)
        uniform = np.full(count, 1 / count)
        if total == 0:
            return uniform
        mixed: NDArray[np.float64] = self._uniform * uniform + (1 - self._uniform) * self._learnable / total
        return mixed


_UNKNOWN = SolveRate(0, 0)
