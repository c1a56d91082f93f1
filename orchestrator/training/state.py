"""How far a job is: what a checkpoint holds of it beside the learner's state, so that the job goes on from there.

Invariant: a state that is saved and read again accounts for the same questions; a draw that was in flight then is asked
again under the same number and seed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.questions.ledger import Ledger
from orchestrator.questions.solve_rates import SolveRate


@dataclass(slots=True)
class RunState:
    """Counters of the orchestrator, at the end of a step."""

    step: int = 0
    """Learner steps done; 0 behind the warm start."""
    position: int = 0
    """Questions drawn from the training data: where the next one comes from."""
    weight_version: int = 0
    """Optimizer steps since the job began, the warm start's included."""
    ledger: Ledger = field(default_factory=Ledger)
    offsets: dict[str, int] = field(default_factory=dict)
    """Bytes of the run directory's growing files at the end of the step."""
    accuracy: float | None = None
    """On held-out questions, where this step was evaluated."""
    nonfinite_in_row: int = 0
    """Updates up to this step that were stopped, one behind the other, by a loss or gradient that is not finite."""
    solve_rates: dict[str, SolveRate] = field(default_factory=dict)
    """By question key, what a curriculum saw in this job."""

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "step": self.step,
            "position": self.position,
            "weight_version": self.weight_version,
            "ledger": self.ledger.to_dict(),
            "offsets": dict(self.offsets),
            "accuracy": self.accuracy,
            "nonfinite_in_row": self.nonfinite_in_row,
            "solve_rates": {key: list(rate) for key, rate in self.solve_rates.items()},
        }

    def restore(self, saved: Mapping[str, Any] | None) -> None:
        """Become what `to_dict` described, or a job that has not begun. Raises LedgerError, KeyError for a bad one."""
        fresh = RunState()
        if saved is not None:
            rates = {key: SolveRate(*rate) for key, rate in saved.get("solve_rates", {}).items()}
            fresh = RunState(**{**saved, "ledger": Ledger.from_dict(saved["ledger"]), "solve_rates": rates})
        for name in RunState.__slots__:
            setattr(self, name, getattr(fresh, name))
