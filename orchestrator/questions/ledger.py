"""The ledger of questions: each one drawn is in flight, or ended in exactly one way, and the counts always add up.

Invariant: drawn = trained + zero_variance + stale + failed + in flight. A draw that ended leaves only its count, so the
ledger stays small however long the job runs; the draws in flight are kept by number and are what a job that resumes
from a checkpoint asks again.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class LedgerError(RuntimeError):
    """A question was lost, counted twice or never drawn."""


class Draw(NamedTuple):
    """One drawing of a question."""

    key: str
    """`Question.key`: dataset and index."""
    number: int
    """Draws are numbered through the whole job, from 0; the same question gets a new number each epoch."""


class Ledger:
    """Accounts for every question drawn. Each method that ends a draw raises LedgerError unless it is in flight."""

    def __init__(self) -> None:
        self._drawn = 0
        self._trained = 0
        self._zero_variance = 0
        self._stale = 0
        self._failed: Counter[str] = Counter()
        self._in_flight: dict[int, str] = {}

    def draw(self, key: str) -> Draw:
        """Take the next number for a question; it is in flight from now on, through all its retries."""
        draw = Draw(key, self._drawn)
        self._drawn += 1
        self._in_flight[draw.number] = key
        return draw

    def trained(self, draw: Draw) -> None:
        """The group was in a learner step."""
        self._end(draw)
        self._trained += 1

    def zero_variance(self, draw: Draw) -> None:
        """All completions had the same reward: there is nothing to learn from the group."""
        self._end(draw)
        self._zero_variance += 1

    def stale(self, draw: Draw) -> None:
        """The group was made with weights too old to train on."""
        self._end(draw)
        self._stale += 1

    def failed(self, draw: Draw, reason: str) -> None:
        """No group came of it; `reason` is one of few words (`audio`, `retries`): failures are counted by it."""
        self._end(draw)
        self._failed[reason] += 1

    @property
    def in_flight(self) -> tuple[Draw, ...]:
        """The draws without an end, in the order they were drawn."""
        return tuple(Draw(key, number) for number, key in sorted(self._in_flight.items()))

    @property
    def failures(self) -> dict[str, int]:
        """How many draws failed, by reason."""
        return dict(sorted(self._failed.items()))

    def counts(self) -> dict[str, int]:
        """`drawn`, and the five parts it is the sum of."""
        return {
            "drawn": self._drawn,
            "trained": self._trained,
            "zero_variance": self._zero_variance,
            "stale": self._stale,
            "failed": self._failed.total(),
            "in_flight": len(self._in_flight),
        }

    def check(self, held: Iterable[Draw] | None = None) -> None:
        """Raise LedgerError unless the counts add up.

        `held` is what the caller really has in its hands (asked, waiting or buffered). Given that, the check finds a
        question that was dropped without a word, which by its counts alone would be in flight for ever.
        """
        counts = self.counts()
        ended = sum(counts.values()) - counts["drawn"]
        if counts["drawn"] != ended or min(counts.values()) < 0 or min(self._failed.values(), default=0) < 0:
            raise LedgerError(f"the counts of questions do not add up: {counts}")
        strange = [number for number in self._in_flight if not 0 <= number < self._drawn]
        if strange:
            raise LedgerError(f"draws in flight that were never drawn: {strange}")
        if held is None:
            return
        holding = Counter(held)
        twice = sorted(draw for draw, times in holding.items() if times > 1)
        in_flight = set(self.in_flight)
        lost, unknown = sorted(in_flight - holding.keys()), sorted(holding.keys() - in_flight)
        if lost or unknown or twice:
            raise LedgerError(f"draws lost: {lost}; held though not in flight: {unknown}; held twice: {twice}")

    def to_dict(self) -> dict[str, Any]:
        """The whole ledger as JSON values, for a checkpoint."""
        return {
            "drawn": self._drawn,
            "trained": self._trained,
            "zero_variance": self._zero_variance,
            "stale": self._stale,
            "failed": self.failures,
            "in_flight": [[draw.key, draw.number] for draw in self.in_flight],
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "Ledger":
        """The ledger `to_dict` described. Raises LedgerError if it does not add up, KeyError if a part is missing."""
        ledger = cls()
        ledger._drawn = state["drawn"]
        ledger._trained = state["trained"]
        ledger._zero_variance = state["zero_variance"]
        ledger._stale = state["stale"]
        ledger._failed = Counter(state["failed"])
        ledger._in_flight = {number: key for key, number in state["in_flight"]}
        if len(ledger._in_flight) != len(state["in_flight"]):
            raise LedgerError("a draw is in flight twice")
        ledger.check()
        return ledger

    def _end(self, draw: Draw) -> None:
        if not 0 <= draw.number < self._drawn:
            raise LedgerError(f"{draw} was never drawn: only {self._drawn} draws were made")
        key = self._in_flight.get(draw.number)
        if key is None:
            raise LedgerError(f"{draw} has ended before; a question ends once")
        if key != draw.key:
            raise LedgerError(f"{draw} was never drawn: that number is of {key!r}")
        del self._in_flight[draw.number]
