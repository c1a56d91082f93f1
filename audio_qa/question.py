"""A question about a clip: the unit that is drawn, answered, scored and accounted for."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Question:
    """One multiple-choice question about one audio file.

    A question is identified by its dataset's name and its position there: `key` is what the ledger counts.
    """

    dataset: str
    """Name of the dataset it was read from."""
    index: int
    """Position in that dataset, from 0."""
    id: str
    """The dataset's own identifier."""
    audio: str
    """Path of the audio file, absolute once a dataset was read."""
    text: str
    choices: tuple[str, ...]
    """As the dataset has them, in its order. Some benchmarks have a choice twice."""
    answer: str
    """The right choice, word for word one of `choices`; empty where it is not known."""
    task: str = ""
    """Domain, as MMAU has it: sound, music, speech."""
    category: str = ""
    """Finer than `task`: the type of question."""
    difficulty: str = ""
    sub_category: str = ""
    """Finer than `category`, where a dataset has both."""

    @property
    def key(self) -> str:
        return f"{self.dataset}:{self.index}"

    @property
    def chance(self) -> float:
        """Probability that a choice drawn at random is right."""
        return self.choices.count(self.answer) / len(self.choices)
