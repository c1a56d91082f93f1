"""Draw questions: each once per epoch, in an order that depends on the seed alone."""

import hashlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from audio_qa.question import Question


def sample_seed(seed: int, draw: int) -> int:
    """Return the seed of one draw's samples. It has 62 bits, so that two draws of a job do not share one by chance."""
    digest = hashlib.blake2b(f"{seed}:{draw}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 2


class Source(Protocol):
    """An endless stream of questions. `position` counts the questions drawn."""

    position: int

    @property
    def epoch(self) -> float:
        """Number of passes over the dataset, including the fraction."""
        ...

    def draw(self, count: int) -> list[Question]:
        """Return the next `count` questions."""
        ...

    def observe(self, key: str, correct: int, total: int) -> None:
        """Record that `correct` of `total` completions of a drawn question were correct."""
        ...


class QuestionSource:
    """An endless stream over a dataset. `position` counts the questions drawn and is its only state."""

    def __init__(self, questions: Sequence[Question], *, seed: int, shuffle: bool, position: int = 0) -> None:
        if not questions:
            raise ValueError("a source needs at least one question")
        self._questions = questions
        self._seed, self._shuffle = seed, shuffle
        self.position = position
        self._order: np.ndarray = np.arange(len(questions))
        self._order_epoch = -1

    @property
    def epoch(self) -> float:
        """Number of passes over the dataset, including the fraction."""
        return self.position / len(self._questions)

    def draw(self, count: int) -> list[Question]:
        """Return the next `count` questions."""
        drawn = []
        for _ in range(count):
            epoch, place = divmod(self.position, len(self._questions))
            if self._shuffle and epoch != self._order_epoch:
                self._order = np.random.default_rng([self._seed, epoch]).permutation(len(self._questions))
                self._order_epoch = epoch
            drawn.append(self._questions[int(self._order[place])])
            self.position += 1
        return drawn

    def observe(self, key: str, correct: int, total: int) -> None:
        """Do nothing: the order depends on the seed alone."""
