"""The orchestrator's part of a checkpoint: everything beside the learner's state that a job needs to resume.

Invariant: a state that is saved and read again accounts for the same questions; a draw that was in flight is repeated
under the same number and seed.
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
    """Number of learner steps done; 0 after the warm start."""
    position: int = 0
    """Number of questions drawn from the training data: the position of the next one."""
    weight_version: int = 0
    """Number of optimizer steps since the job started, including the warm start."""
    ledger: Ledger = field(default_factory=Ledger)
    offsets: dict[str, int] = field(default_factory=dict)
    """Sizes of the run directory's growing files at the end of the step, in bytes."""
    accuracy: float | None = None
    """Accuracy on held-out questions, if this step was evaluated."""
    nonfinite_in_row: int = 0
    """Number of consecutive updates, up to this step, that were skipped for a non-finite loss or gradient."""
    solve_rates: dict[str, SolveRate] = field(default_factory=dict)
    """By question key, the solve rates of this job, for its curriculum."""

    def to_dict(self) -> dict[str, Any]:
        """Return the state as JSON values."""
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
        """Take the values that `to_dict` returned; None resets to a new job. Raises LedgerError, KeyError."""
        fresh = RunState()
        if saved is not None:
            rates = {key: SolveRate(*rate) for key, rate in saved.get("solve_rates", {}).items()}
            fresh = RunState(**{**saved, "ledger": Ledger.from_dict(saved["ledger"]), "solve_rates": rates})
        for name in RunState.__slots__:
            setattr(self, name, getattr(fresh, name))
