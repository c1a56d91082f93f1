"""The metrics in a run's `metrics.jsonl`: one table of names, units and meanings.

docs/reference/metrics.md is generated from this table. A line holds the metrics of one learner step.
"""

from dataclasses import dataclass

_EVERY = "every step"
_GROUPS = "every step; null where no group was scored"
_TRAINED = "every step; null where nothing was trained"
_LEARNED = "steps with training"
_REINFORCE = "every step of reinforcement learning"
_EVALUATED = "steps with an evaluation"
_PER_SECOND = "tokens/s"


@dataclass(frozen=True, slots=True)
class MetricDescription:
    """One metric."""

    name: str
    """Its key in `metrics.jsonl`; `NAME` stands for the name of a reward function."""
    unit: str
    """Unit or range."""
    meaning: str
    written: str
    """Steps that have it."""


COLUMNS = (
    MetricDescription("step", "≥ 1", "Learner step.", _EVERY),
    MetricDescription("epoch", "≥ 0", "Passes over the training questions so far.", _EVERY),
    MetricDescription("reward/mean", "reward", "Mean weighted reward of the scored completions.", _GROUPS),
    MetricDescription("reward/accuracy", "0 to 1", "Share of completions with the right answer.", _GROUPS),
    MetricDescription("reward/format", "0 to 1", "Mean of the reward for the answer's format.", _GROUPS),
    MetricDescription("eval/accuracy", "0 to 1", "Accuracy on the held-out questions.", _EVALUATED),
    MetricDescription(
        "eval/accuracy_silence",
        "0 to 1",
        "Accuracy with silence in place of each clip; null without the silence control.",
        _EVALUATED,
    ),
    MetricDescription("loss/policy", "loss", "Policy term of the loss, mean over updates.", _TRAINED),
    MetricDescription("loss/kl", "loss", "KL term: `beta` times `kl/ref`; null without a reference.", _TRAINED),
    MetricDescription(
        "kl/ref", "nats", "KL divergence from the reference, weighted as in the loss; null without one.", _TRAINED
    ),
    MetricDescription(
        "ratio/mean", "> 0", "Mean ratio of new to old token probability; 1 where both sides agree.", _TRAINED
    ),
    MetricDescription("ratio/clipped_fraction", "0 to 1", "Share of tokens whose ratio was clipped.", _TRAINED),
    MetricDescription("entropy", "nats", "Mean entropy of the distribution a token is sampled from.", _TRAINED),
    MetricDescription("completion/length_mean", "tokens", "Mean length of a completion.", _GROUPS),
    MetricDescription(
        "completion/truncated_fraction", "0 to 1", "Share of completions truncated at the longest length.", _GROUPS
    ),
    MetricDescription("groups/trained", "groups", "Groups trained on.", _EVERY),
    MetricDescription("groups/zero_variance", "groups", "Groups left out because all their rewards are equal.", _EVERY),
    MetricDescription("groups/stale", "groups", "Groups discarded because their weights were too old.", _EVERY),
    MetricDescription(
        "groups/failed", "groups", "Groups that failed: unreadable clip, no scores, a failed rollout.", _EVERY
    ),
    MetricDescription("staleness/mean", "weight versions", "Mean staleness of the groups.", _GROUPS),
    MetricDescription("staleness/max", "weight versions", "Largest staleness of the groups.", _GROUPS),
    MetricDescription("workers/alive", "workers", "Rollout workers that serve and are not leaving.", _EVERY),
    MetricDescription("time/step", "s", "Duration of the step.", _EVERY),
    MetricDescription(
        "time/generate", "s", "Generating the groups of the step; may overlap earlier steps.", _REINFORCE
    ),
    MetricDescription("time/reward", "s", "Scoring the groups of the step; may overlap earlier steps.", _REINFORCE),
    MetricDescription("time/learn", "s", "Training on the step's groups.", _EVERY),
    MetricDescription("time/sync", "s", "Publishing the weights and waiting until the workers have them.", _REINFORCE),
    MetricDescription("time/learner_wait", "s", "The learner waited for groups.", _REINFORCE),
    MetricDescription(
        "tokens/generated_per_second", _PER_SECOND, "Tokens generated per second of generation.", _GROUPS
    ),
    MetricDescription(
        "tokens/trained_per_second", _PER_SECOND, "Completion tokens trained on per second of training.", _TRAINED
    ),
)
"""The metrics that every run writes, in the order of their columns. Supervised steps write null for those of
reinforcement learning only."""

OTHERS = (
    MetricDescription(
        "eval/accuracy_shuffled",
        "0 to 1",
        "Accuracy with another question's clip; absent without the shuffled control.",
        _EVALUATED,
    ),
    MetricDescription("eval/failed", "questions", "Held-out questions that could not be asked.", _EVALUATED),
    MetricDescription(
        "eval/truncated_fraction",
        "0 to 1",
        "Share of the evaluation's completions truncated at the longest length; null without completions.",
        _EVALUATED,
    ),
    MetricDescription("grad_norm", "≥ 0", "Norm of the gradient before clipping, of the last update.", _LEARNED),
    MetricDescription(
        "importance/mean", "≥ 0", "Mean importance weight that corrects for stale or inexact sampling.", _LEARNED
    ),
    MetricDescription("learner/cut_smaller", "0 or 1", "1 if a batch did not fit into memory and was split.", _LEARNED),
    MetricDescription("learner/micro_batches", "micro-batches", "Most micro-batches of any rank.", _LEARNED),
    MetricDescription(
        "learner/nonfinite", "updates", "Updates not made because a loss or a gradient was not finite.", _LEARNED
    ),
    MetricDescription(
        "learner/shared_fraction", "0 to 1", "Share of groups whose prompt was computed only once.", _LEARNED
    ),
    MetricDescription("learner/updates", "updates", "Optimizer updates made.", _LEARNED),
    MetricDescription("learning_rate", "≥ 0", "Learning rate of the last update.", _LEARNED),
    MetricDescription(
        "logprob/gap_max",
        "nats",
        "Largest difference between a token's log-probability at the learner and at the rollout worker.",
        _LEARNED,
    ),
    MetricDescription("loss/total", "loss", "Loss with all its terms, mean over updates.", _LEARNED),
    MetricDescription(
        "reward/NAME", "reward", "Mean of one reward function over the completions it scored, unweighted.", _GROUPS
    ),
    MetricDescription(
        "reward/zero_variance_fraction", "0 to 1", "Share of groups whose rewards are all equal.", _REINFORCE
    ),
    MetricDescription("samples/invalid", "completions", "Completions for which a reward failed.", _REINFORCE),
    MetricDescription("tokens/computed", "tokens", "Tokens the learner computed: prompts and completions.", _LEARNED),
    MetricDescription("tokens/generated", "tokens", "Tokens of the step's completions.", _REINFORCE),
    MetricDescription("tokens/trained", "tokens", "Completion tokens trained on, mean over updates.", _LEARNED),
)
"""The other metrics, in alphabetical order: these columns follow."""

METRIC_NAMES = tuple(metric.name for metric in COLUMNS)
"""Names of the metrics that every run writes, in the order of their columns."""
