"""The Ray actor around a learner rank. Importing this module imports neither torch nor DeepSpeed."""

from typing import Any

from audio_qa.audio import TooLong
from learner.settings import LearnerSettings


class LearnerActor:
    """One rank in its own process."""

    def __init__(self, rank: int, ranks: int, settings: LearnerSettings, too_long: TooLong) -> None:
        # These imports take seconds and gigabytes, so only the actor's process pays for them.
        from learner.rank import LearnerRank  # noqa: PLC0415

        self._rank = LearnerRank(rank, ranks, settings, too_long)

    def call(self, method: str, *arguments: object) -> Any:
        """Call a method of the rank."""
        return getattr(self._rank, method)(*arguments)
