"""A question about a clip: the unit that is drawn, answered, scored and accounted for."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Question:
    """One multiple-choice question about one audio file.

    A question is identified by its dataset's name and its position there: `key` is what the ledger counts.
    """

    dataset: str
    """Name of the dataset."""
    index: int
    """Position in that dataset, from 0."""
    id: str
    """Identifier in the dataset."""
    audio: str
    """Path of the audio file; absolute in a dataset that was read."""
    text: str
    choices: tuple[str, ...]
    """Choices in the order of the dataset. Some benchmarks have duplicate choices."""
    answer: str
    """The right choice, verbatim one of `choices`; empty if it is not known."""
    task: str = ""
    """Domain, as in MMAU: sound, music, speech."""
    category: str = ""
    """Type of question: finer than `task`."""
    difficulty: str = ""
    sub_category: str = ""
    """Finer than `category`, if the dataset has both."""

    @property
    def key(self) -> str:
        return f"{self.dataset}:{self.index}"
