"""The ledger: an account of every draw. A draw is in flight, or has ended in exactly one way.

Invariant: drawn = trained + zero_variance + stale + failed + in flight. Of a draw that ended only its count is kept, so
that the ledger stays small in long jobs. Draws in flight are kept by number: a resumed job repeats them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from audio_qa.errors import EarshotError, shown


class LedgerError(EarshotError):
    """A draw was lost, counted twice or never made."""


class Draw(NamedTuple):
    """One question that was drawn, with its number."""

    key: str
    """`Question.key`: dataset and index."""
    number: int
    """Draws are numbered through the whole job, from 0; a question gets a new number each epoch."""


class Ledger:
    """Accounts for every draw. Methods that end a draw raise LedgerError unless it is in flight."""

    def __init__(self) -> None:
        self._drawn = 0
        self._trained = 0
        self._zero_variance = 0
        self._stale = 0
        self._failed: Counter[str] = Counter()
        self._in_flight: dict[int, str] = {}

    def draw(self, key: str) -> Draw:
        """Give a question the next number; the draw is in flight from now on, through all retries."""
        draw = Draw(key, self._drawn)
        self._drawn += 1
        self._in_flight[draw.number] = key
        return draw

    def trained(self, draw: Draw) -> None:
        """End a draw: its group was trained on."""
        self._end(draw)
        self._trained += 1

    def zero_variance(self, draw: Draw) -> None:
        """End a draw: all completions had the same reward, so there is nothing to learn."""
        self._end(draw)
        self._zero_variance += 1

    def stale(self, draw: Draw) -> None:
        """End a draw: its group was sampled with weights too old to train on."""
        self._end(draw)
        self._stale += 1

    def failed(self, draw: Draw, reason: str) -> None:
        """End a draw that was not trained on. `reason` is one of few words (`audio`, `retries`), counted by word."""
        self._end(draw)
        self._failed[reason] += 1

    @property
    def in_flight(self) -> tuple[Draw, ...]:
        """Draws that have not ended, in the order of their numbers."""
        return tuple(Draw(key, number) for number, key in sorted(self._in_flight.items()))

    @property
    def failures(self) -> dict[str, int]:
        """Number of failed draws, by reason."""
        return dict(sorted(self._failed.items()))

    def counts(self) -> dict[str, int]:
        """Return `drawn`, and the five counts that add up to it."""
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

        `held` are the draws that the caller actually holds (requested, waiting or buffered). With it the check finds
        draws that were dropped silently, which the counts alone would show as in flight forever.
        """
        counts = self.counts()
        ended = sum(counts.values()) - counts["drawn"]
        if counts["drawn"] != ended or min(counts.values()) < 0 or min(self._failed.values(), default=0) < 0:
            raise LedgerError(f"the counts of questions do not add up: {counts}")
        never_drawn = [number for number in self._in_flight if not 0 <= number < self._drawn]
        if never_drawn:
            raise LedgerError(f"draws in flight that were never drawn: {never_drawn}")
        if held is None:
            return
        holding = Counter(held)
        twice = sorted(draw for draw, times in holding.items() if times > 1)
        in_flight = set(self.in_flight)
        lost, unknown = sorted(in_flight - holding.keys()), sorted(holding.keys() - in_flight)
        if lost or unknown or twice:
            raise LedgerError(f"draws lost: {lost}; held but not in flight: {unknown}; held twice: {twice}")

    def to_dict(self) -> dict[str, Any]:
        """Return the ledger as JSON values, for a checkpoint."""
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
        """Return the ledger of `to_dict`. Raises LedgerError if it does not add up, KeyError if a part is missing."""
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
            raise LedgerError(f"{draw} has already ended; a draw ends once")
        if key != draw.key:
            raise LedgerError(f"{draw} was never drawn: its number belongs to {shown(key)}")
        del self._in_flight[draw.number]
