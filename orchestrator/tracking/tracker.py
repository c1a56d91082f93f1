"""The interface of a tracker."""

from collections.abc import Mapping
from typing import Protocol


class Tracker(Protocol):
    """One run in one tracking tool. Called from one thread."""

    name: str

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of a learner step. A step not after the last one is repeated, and replaces it."""

    def close(self) -> None:
        """Write everything that is not yet written."""
