import json

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from orchestrator.questions.ledger import Draw, Ledger, LedgerError


def finish(ledger: Ledger, draw: Draw, end: str) -> None:
    if end in ("audio", "retries"):
        ledger.failed(draw, end)
    else:
        getattr(ledger, end)(draw)


ENDS = st.sampled_from(["trained", "zero_variance", "stale", "audio", "retries"])


class LedgerMachine(RuleBasedStateMachine):
    """Draws and ends questions as a training loop does, next to a plain list to compare with."""

    in_flight = Bundle("in_flight")
    ended = Bundle("ended")

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.held: list[Draw] = []
        self.ends: list[str] = []

    @rule(target=in_flight, index=st.integers(0, 3))
    def draw(self, index: int) -> Draw:
        draw = self.ledger.draw(f"train:{index}")
        assert draw == Draw(f"train:{index}", len(self.held) + len(self.ends))
        self.held.append(draw)
        return draw

    @rule(target=ended, draw=consumes(in_flight), end=ENDS)
    def end(self, draw: Draw, end: str) -> Draw:
        finish(self.ledger, draw, end)
        self.held.remove(draw)
        self.ends.append(end)
        return draw

    @rule(draw=ended, end=ENDS)
    def never_twice(self, draw: Draw, end: str) -> None:
        with pytest.raises(LedgerError, match="already ended"):
            finish(self.ledger, draw, end)

    @rule(draw=in_flight, end=ENDS)
    def never_under_another_name(self, draw: Draw, end: str) -> None:
        with pytest.raises(LedgerError, match="never drawn"):
            finish(self.ledger, Draw("other:0", draw.number), end)

    @rule(ahead=st.integers(0, 5), end=ENDS)
    def never_undrawn(self, ahead: int, end: str) -> None:
        number = len(self.held) + len(self.ends) + ahead
        with pytest.raises(LedgerError, match="never drawn"):
            finish(self.ledger, Draw("train:0", number), end)

    @rule()
    def through_a_checkpoint(self) -> None:
        self.ledger = Ledger.from_dict(json.loads(json.dumps(self.ledger.to_dict())))

    @rule(draw=in_flight)
    def a_lost_question_is_found(self, draw: Draw) -> None:
        with pytest.raises(LedgerError, match="lost"):
            self.ledger.check(held for held in self.held if held != draw)

    @rule(draw=in_flight)
    def a_question_held_twice_is_found(self, draw: Draw) -> None:
        with pytest.raises(LedgerError, match="twice"):
            self.ledger.check([*self.held, draw])

    @rule(draw=ended)
    def a_question_held_after_its_end_is_found(self, draw: Draw) -> None:
        with pytest.raises(LedgerError, match="not in flight"):
            self.ledger.check([*self.held, draw])

    @invariant()
    def the_counts_add_up(self) -> None:
        self.ledger.check()
        self.ledger.check(self.held)
        counts = self.ledger.counts()
        assert counts["drawn"] == sum(counts.values()) - counts["drawn"] == len(self.held) + len(self.ends)
        for end in ("trained", "zero_variance", "stale"):
            assert counts[end] == self.ends.count(end)
        assert counts["failed"] == sum(self.ledger.failures.values())
        assert self.ledger.failures == {
            reason: self.ends.count(reason) for reason in ("audio", "retries") if reason in self.ends
        }
        assert self.ledger.in_flight == tuple(sorted(self.held, key=lambda draw: draw.number))


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize(
    "change",
    [
        {"drawn": 3},
        {"trained": 0},
        {"trained": -1, "stale": 2},
        {"failed": {"audio": -1, "retries": 1}},
        {"in_flight": []},
        {"in_flight": [["train:1", 1], ["train:1", 1]], "drawn": 3},
        {"in_flight": [["train:1", 5]]},
    ],
)
def test_a_damaged_ledger_is_refused(change: dict[str, object]) -> None:
    ledger = Ledger()
    ledger.trained(ledger.draw("train:0"))
    ledger.draw("train:1")
    with pytest.raises(LedgerError):
        Ledger.from_dict(ledger.to_dict() | change)
