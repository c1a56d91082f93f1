"""Which questions are drawn by how often they are solved: those near one half most often, or easy ones first.

Invariant: a draw depends on the job's seed, its place in the stream and the solve rates at that moment. Position and
rates are in every checkpoint, so a job that goes on from one draws what it would have drawn.
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
    """The questions whose measured solve rate is within the section's bounds, and those that were not measured."""
    return [
        question
        for question in questions
        if question.key not in measured
        or section.min_solve_rate <= measured[question.key].share <= section.max_solve_rate
    ]


def easy_first(questions: Sequence[Question], measured: Mapping[str, SolveRate]) -> list[Question]:
    """By falling solve rate, those solved alike in their own order; what was not measured counts as solved half."""
    return sorted(questions, key=lambda question: -measured.get(question.key, _UNKNOWN).share)


class LearnableSource:
    """An endless stream that prefers questions of which some answers are right and some wrong.

    A question's chance is in proportion to p (1 - p), p being the share of right answers: the variance of its reward,
    and 0 where all completions get the same and nothing is learnt. Foster et al., 2025, "Learning to Reason at the
    Frontier of Learnability" (arXiv 2502.12272). One that was never asked counts as p = 1/2. Each new group halves the
    weight of all that was seen of its question before, since the model changes.
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
            uniform: the share of draws that go to all questions alike, so that none is given up for good.
            running: rates seen in this job, by question key; `observe` changes it.
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
        """Draws over questions: how often the dataset could have been gone through."""
        return self.position / len(self._questions)

    def draw(self, count: int) -> list[Question]:
        """The next `count` questions; none twice while there are others."""
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

    def observe(self, key: str, right: int, asked: int) -> None:
        """Take note of how the completions of a question that was drawn here came out."""
        place = self._place[key]
        rate = self._rates[place].followed_by(right, asked)
        self._rates[place] = self._running[key] = rate
        self._learnable[place] = rate.share * (1 - rate.share)

    def _weights(self) -> NDArray[np.float64]:
        """By question, its chance of being drawn next, above 0."""
        total, count = self._learnable.sum(), len(self._questions)
        alike = np.full(count, 1 / count)
        if total == 0:
            return alike
        mixed: NDArray[np.float64] = self._uniform * alike + (1 - self._uniform) * self._learnable / total
        return mixed


_UNKNOWN = SolveRate(0, 0)
