"""Distribute the rows of a batch over ranks and micro-batches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from learner.model.flops import DecoderFlops
from learner.model.packing import AS_NEEDED, Calls, EncodedPrompt, Row, make_rows, split_rows
from learner.settings import SharePrefix


@dataclass(frozen=True, slots=True)
class MicroBatchPlan:
    """The rows of one micro-batch. If `counts` is false, it only keeps the ranks in step: its loss has weight 0."""

    rows: tuple[Row, ...]
    counts: bool = True
    calls: Calls = AS_NEEDED
    """Agreed with the other ranks."""


def choose_sharing(
    prompts: Sequence[EncodedPrompt],
    completions: Sequence[Sequence[tuple[int, ...]]],
    when: SharePrefix,
    cost: DecoderFlops,
) -> list[bool]:
    """Return for each group whether its prompt is computed once: always, never, or if that takes fewer operations."""
    if when is not SharePrefix.AUTO:
        return [when is SharePrefix.ALWAYS] * len(prompts)
    chosen = []
    for prompt, group in zip(prompts, completions, strict=True):
        shared, plain = (
            sum(cost.row(row) for row in make_rows([prompt], [group], shared=share)) for share in (True, False)
        )
        chosen.append(shared <= plain)
    return chosen


def distribute_rows(rows: Sequence[Row], ranks: int, token_budget: int) -> list[list[MicroBatchPlan]]:
    """Return every rank's micro-batches: each row counts exactly once, and all ranks have the same number.

    Rows go, longest first, to the rank with the fewest tokens so far. ZeRO's collectives run once per micro-batch on
    every rank, so a rank with fewer micro-batches repeats a row with weight 0.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("a batch without rows cannot be distributed over ranks")
    ordered = sorted(rows, key=len, reverse=True)
    shares: list[list[Row]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for row in ordered:
        lightest = loads.index(min(loads))
        shares[lightest].append(row)
        loads[lightest] += len(row)
    plans = [[MicroBatchPlan(tuple(batch)) for batch in split_rows(share, token_budget)] for share in shares]
    longest = max(len(plan) for plan in plans)
    filler = MicroBatchPlan((ordered[-1],), counts=False)
    return [plan + [filler] * (longest - len(plan)) for plan in plans]


def agree_on_calls(
    plans: Sequence[Sequence[MicroBatchPlan]], calls_needed: Callable[[Sequence[Row]], Calls]
) -> list[list[MicroBatchPlan]]:
    """Return all ranks' plans with equal `calls` in their i-th micro-batches: the most that any rank needs.

    Every rank computes it from the whole batch, without communication.
    """
    agreed = []
    for step in zip(*plans, strict=True):
        needed = [calls_needed(plan.rows) for plan in step]
        calls = Calls(tower=max(n.tower for n in needed), head=max(n.head for n in needed))
        agreed.append([replace(plan, calls=calls) for plan in step])
    return [list(plan) for plan in zip(*agreed, strict=True)]
