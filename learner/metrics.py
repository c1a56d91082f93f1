"""Combine the ranks' statistics into the metrics of a step."""

from collections.abc import Sequence

from learner.messages import StepStats


def step_metrics(stats: Sequence[StepStats]) -> dict[str, float]:
    """Return the learner's metrics of one batch: means over its tokens, and over its updates if there are several."""
    total, first = StepStats(), stats[0]
    for one in stats:
        total.add(one)
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
        "learner/micro_batches": float(max(t.micro_batches for t in stats)),
        "learner/shared_fraction": total.shared_groups / total.groups if total.groups else 0.0,
        "learner/updates": float(first.updates),
        "learner/nonfinite": float(first.nonfinite),
        "learner/cut_smaller": float(max(t.cut_smaller for t in stats)),
    }
