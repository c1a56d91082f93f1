"""Messages between the driver and the reward actor."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Score:
    """The rewards of one completion."""

    rewards: dict[str, float]
    """Unweighted rewards by name of the reward function. A function that failed has no entry."""
    total: float
    """Weighted sum; 0.0 and meaningless if `error` is set."""
    error: str | None = None
    """Reason for a missing score (crash, timeout, not a finite number): the completion is masked, never scored 0."""

    @property
    def valid(self) -> bool:
        return self.error is None
