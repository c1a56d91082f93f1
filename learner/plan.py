"""Who computes what: the rows of a batch, shared out over ranks and cut into micro-batches."""

from collections.abc import Sequence
from dataclasses import dataclass

from learner.packing import Row, cut


@dataclass(frozen=True, slots=True)
class MicroBatchPlan:
    """The rows of one micro-batch. Where `counts` is false it only keeps the ranks in step: its loss has weight 0."""

    rows: tuple[Row, ...]
    counts: bool = True


def share_out(rows: Sequence[Row], ranks: int, token_budget: int) -> list[list[MicroBatchPlan]]:
    """Every rank's micro-batches: each row counts exactly once, and all ranks have equally many.

    ZeRO's collectives run once a micro-batch on every rank, so a rank with less to do repeats a row with weight 0.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("a batch without rows cannot be shared out")
    ordered = sorted(rows, key=len, reverse=True)
    shares: list[list[Row]] = [ordered[rank::ranks] for rank in range(ranks)]
    plans = [[MicroBatchPlan(tuple(batch)) for batch in cut(share, token_budget)] for share in shares]
    longest = max(len(plan) for plan in plans)
    filler = MicroBatchPlan((ordered[-1],), counts=False)
    return [plan + [filler] * (longest - len(plan)) for plan in plans]
