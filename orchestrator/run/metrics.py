"""The metrics that every run writes."""

# fmt: off
METRIC_NAMES = (
    "step", "epoch", "reward/mean", "reward/accuracy", "reward/format", "eval/accuracy", "eval/accuracy_silence",
    "loss/policy", "loss/kl", "kl/ref", "ratio/mean", "ratio/clipped_fraction", "entropy", "completion/length_mean",
    "completion/truncated_fraction", "groups/trained", "groups/zero_variance", "groups/stale", "groups/failed",
    "staleness/mean", "staleness/max", "workers/alive", "time/step", "time/generate", "time/reward", "time/learn",
    "time/sync", "time/learner_wait", "tokens/generated_per_second", "tokens/trained_per_second",
)
# fmt: on
"""The metrics every run writes, in the order of their columns; what else a learner reports follows, sorted."""
