"""Messages between the controller and the reward actor."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Score:
    """The rewards of one completion."""

    rewards: dict[str, float]
    """By name of the reward function, unweighted. A function that failed has no entry."""
    total: float
    """Weighted sum; 0.0 and not to be used where `error` is set."""
    error: str | None = None
    """Why the completion could not be scored (crash, time-out, not a finite number): it is masked, never scored 0."""

    @property
    def valid(self) -> bool:
        return self.error is None
