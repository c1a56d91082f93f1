"""What the tools have in common, as far as a run needs it."""

from collections.abc import Mapping
from typing import Protocol


class Tracker(Protocol):
    """One run in one tool. Called from one thread."""

    name: str

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """The metrics of a learner step; a step that is not behind the last one is done again, and takes its place."""

    def close(self) -> None:
        """Write what is not written yet."""
