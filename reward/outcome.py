"""What asking a reward function about one completion comes to."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Failed:
    """Why there is no number, in one line."""

    reason: str


Outcome = float | Failed
