"""Decide how many rollout workers a job should have.

If the learner waits for rollouts, workers are added; if batches wait for the learner, one is removed. Either must last
for several steps. After a decision or a request, nothing is decided until the workers are there and have had time to
show their effect. A single slow batch, or the start of a worker, therefore changes nothing. A number outside of the
bounds that was requested stays until another one is requested.
"""

import math
from dataclasses import dataclass

WAITS = 0.2
"""The learner counts as waiting if it waits for more than this share of a step's time."""
PATIENCE = 3
"""Number of consecutive steps that must agree."""


@dataclass(frozen=True, slots=True)
class Observation:
    """Measurements of one step."""

    waited: float
    """Share of the step's time that the learner waited for its batch, 0 to 1."""
    full: bool
    """True if all batches that may run ahead were done at the end of the step: rollouts are faster than the learner."""
    alive: int
    """Number of workers that have an engine and stay."""
    target: int
    """Number of workers that are wanted."""
    requested: bool = False
    """True if a command set this target, and no decision since."""


@dataclass(frozen=True, slots=True)
class ScalingDecision:
    """The new number of workers, and the reason as a sentence."""

    count: int
    reason: str


class Autoscaler:
    """Decides between `least` and `most` workers, step by step."""

    def __init__(self, least: int, most: int) -> None:
        self._least, self._most = least, most
        self._target: int | None = None
        """The target at the last step."""
        self._waiting: list[float] = []
        self._full = 0

    def decide(self, observed: Observation) -> ScalingDecision | None:
        """Return the decision after a step; None leaves the number as it is."""
        changed, self._target = self._target not in (None, observed.target), observed.target
        if not self._least <= observed.target <= self._most:
            if observed.requested:
                self._reset()
                return None
            count = min(max(observed.target, self._least), self._most)
            return self._decision(count, f"outside of {self._least} to {self._most}")
        if observed.alive != observed.target or changed:
            # The last decision, a request, or a lost worker's replacement, has not taken effect.
            self._reset()
            return None
        self._waiting = [*self._waiting, observed.waited] if observed.waited > WAITS else []
        self._full = self._full + 1 if observed.full else 0
        if len(self._waiting) >= PATIENCE and observed.target < self._most:
            share = sum(self._waiting) / len(self._waiting)
            count = min(self._most, observed.target + max(1, math.floor(observed.target * share)))
            return self._decision(count, f"the learner waited for rollouts {share:.0%} of the last {PATIENCE} steps")
        if self._full >= PATIENCE and observed.target > self._least:
            return self._decision(observed.target - 1, f"rollouts waited for the learner at the last {PATIENCE} steps")
        return None

    def _decision(self, count: int, reason: str) -> ScalingDecision:
        self._reset()
        self._target = count
        return ScalingDecision(count, reason)

    def _reset(self) -> None:
        self._waiting, self._full = [], 0
