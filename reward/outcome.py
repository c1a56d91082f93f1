"""The outcome of one reward function for one completion."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Failed:
    """A failure: the reason for the missing reward, in one line."""

    reason: str


Outcome = float | Failed
