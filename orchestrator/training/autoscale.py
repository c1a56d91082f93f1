"""When a job should have more rollout workers, or can do with fewer.

The learner waiting for rollouts asks for more; batches waiting for the learner ask for fewer. Both must last for some
steps, and behind a decision nothing is decided until it has taken effect and had the time to show: one slow batch, or
the start of a worker, moves nothing.
"""

import math
from dataclasses import dataclass

WAITS = 0.2
"""Share of a step's time that the learner waits from which it counts as waiting."""
PATIENCE = 3
"""Steps in a row that must agree."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What one step showed."""

    waited: float
    """Share of the step's time that the learner waited for its batch, 0 to 1."""
    full: bool
    """Whether all batches that may be begun ahead were done when the step ended: rollouts outran the learner."""
    alive: int
    """Workers that answer questions."""
    target: int
    """Workers that are asked for."""


@dataclass(frozen=True, slots=True)
class ScalingDecision:
    """How many workers there should be, and why, in words."""

    count: int
    reason: str


class Autoscaler:
    """Decides between `least` and `most` workers, step by step."""

    def __init__(self, least: int, most: int) -> None:
        self._least, self._most = least, most
        self._waiting: list[float] = []
        self._full = 0

    def decide(self, seen: Observation) -> ScalingDecision | None:
        """What to do behind a step; None: leave it."""
        if not self._least <= seen.target <= self._most:
            count = min(max(seen.target, self._least), self._most)
            return self._decided(count, f"outside of {self._least} to {self._most}")
        if seen.alive != seen.target:
            # The last decision, or a lost worker's replacement, has not taken effect.
            self._forget()
            return None
        self._waiting = [*self._waiting, seen.waited] if seen.waited > WAITS else []
        self._full = self._full + 1 if seen.full else 0
        if len(self._waiting) >= PATIENCE and seen.target < self._most:
            share = sum(self._waiting) / len(self._waiting)
            count = min(self._most, seen.target + max(1, math.floor(seen.target * share)))
            return self._decided(count, f"the learner waited for rollouts {share:.0%} of the last {PATIENCE} steps")
        if self._full >= PATIENCE and seen.target > self._least:
            return self._decided(seen.target - 1, f"rollouts waited for the learner at the last {PATIENCE} steps")
        return None

    def _decided(self, count: int, reason: str) -> ScalingDecision:
        self._forget()
        return ScalingDecision(count, reason)

    def _forget(self) -> None:
        self._waiting, self._full = [], 0
