"""From the ranks' sums to the metrics of a step."""

from collections.abc import Sequence

from learner.phase import Tally


def step_metrics(tallies: Sequence[Tally]) -> dict[str, float]:
    """The learner's metrics of one batch: means over its tokens, and over its updates where there were several."""
    total, first = Tally(), tallies[0]
    for tally in tallies:
        total.add(tally)
    tokens = max(1, total.tokens)
    attempts = max(1, first.updates + first.nonfinite)
    return {
        "loss/total": total.loss / attempts,
        "loss/policy": total.policy / attempts,
        "kl/ref": total.kl / attempts,
        "entropy": total.entropy / tokens,
        "ratio/mean": total.ratio / tokens,
        "ratio/clipped_fraction": total.clipped / tokens,
        "importance/mean": total.importance / tokens,
        "logprob/gap_max": total.logprob_gap,
        "grad_norm": first.grad_norm,
        "learning_rate": first.learning_rate,
        "tokens/trained": total.tokens / attempts,
        "tokens/computed": float(total.tokens_computed),
        "learner/micro_batches": float(max(t.micro_batches for t in tallies)),
        "learner/shared_fraction": total.shared_groups / total.groups if total.groups else 0.0,
        "learner/updates": float(first.updates),
        "learner/nonfinite": float(first.nonfinite),
        "learner/cut_smaller": float(max(t.cut_smaller for t in tallies)),
    }
