"""What a job says about its loss. `algorithm` sets what is not said by itself."""

from enum import StrEnum
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from learner.losses.advantages import Advantage


class Algorithm(StrEnum):
    """A set of choices that was published under one name."""

    GRPO = "grpo"
    DR_GRPO = "dr_grpo"
    DAPO = "dapo"
    GSPO = "gspo"
    CISPO = "cispo"
    RLOO = "rloo"


class Aggregate(StrEnum):
    """What the loss is a mean over."""

    SEQUENCE_MEAN = "sequence_mean"
    """The mean over completions of each completion's mean over its tokens (GRPO)."""
    TOKEN_MEAN = "token_mean"
    """The mean over all tokens of the batch: long completions count more (DAPO)."""
    CONSTANT = "constant"
    """Each completion's sum over the longest completion allowed, the mean over completions: no bias by length
    (Dr. GRPO)."""
    SEQUENCE_SUM = "sequence_sum"
    """Each completion's sum, the mean over completions: the log-probability of the whole answer (RLOO)."""


class KlEstimator(StrEnum):
    """Which estimate of the KL to the reference."""

    K1 = "k1"
    """The value of k1, with the gradient of k2: k1's own has mean zero."""
    K2 = "k2"
    K3 = "k3"
    """The paper's."""


class CorrectionLevel(StrEnum):
    """What one importance weight is of."""

    NONE = "none"
    TOKEN = "token"
    """Each token by its own ratio: small variance, some bias."""
    SEQUENCE = "sequence"
    """Each completion by the product of its tokens' ratios: unbiased before it is bounded, large variance."""


class CorrectionMode(StrEnum):
    """What becomes of an importance weight above the bound."""

    TRUNCATE = "truncate"
    """It counts as the bound."""
    MASK = "mask"
    """It counts as 0, as does a weight below 1 / bound: what was sampled too differently is not learnt from."""


class CorrectionSettings(BaseModel):
    """Importance weights between the policy that sampled and the learner's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    level: CorrectionLevel | None = None
    """Weigh each token, each completion, or nothing. Without it: tokens where `rollout.max_staleness` is above 0, else
    nothing."""
    mode: CorrectionMode = CorrectionMode.TRUNCATE
    """Weights above the bound count as the bound, or as 0."""
    bound: float = Field(default=2.0, gt=1)
    """The largest importance weight."""


class Choices(BaseModel):
    """What a loss is made of, nothing left open."""

    advantage: Advantage
    aggregate: Aggregate
    clip_low: float
    clip_high: float
    mask_truncated: bool = False
    dynamic_sampling: bool = False


_PRESETS = {
    Algorithm.GRPO: Choices(advantage=Advantage.GROUP, aggregate=Aggregate.SEQUENCE_MEAN, clip_low=0.2, clip_high=0.2),
    Algorithm.DR_GRPO: Choices(advantage=Advantage.CENTRED, aggregate=Aggregate.CONSTANT, clip_low=0.2, clip_high=0.2),
    Algorithm.DAPO: Choices(
        advantage=Advantage.GROUP,
        aggregate=Aggregate.TOKEN_MEAN,
        clip_low=0.2,
        clip_high=0.28,
        mask_truncated=True,
        dynamic_sampling=True,
    ),
    Algorithm.GSPO: Choices(
        advantage=Advantage.GROUP, aggregate=Aggregate.SEQUENCE_MEAN, clip_low=3e-4, clip_high=4e-4
    ),
    Algorithm.CISPO: Choices(advantage=Advantage.GROUP, aggregate=Aggregate.TOKEN_MEAN, clip_low=1.0, clip_high=4.0),
    Algorithm.RLOO: Choices(
        advantage=Advantage.LEAVE_ONE_OUT, aggregate=Aggregate.SEQUENCE_SUM, clip_low=0.2, clip_high=0.2
    ),
}


class LossSettings(BaseModel):
    """The loss of reinforcement learning."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    algorithm: Algorithm = Algorithm.GRPO
    """Sets what the keys below leave open. The first update of a batch is never clipped, whatever the bounds."""
    advantage: Advantage | None = None
    """How rewards become advantages; by default the algorithm's."""
    aggregate: Aggregate | None = None
    """What the loss is a mean over; by default the algorithm's."""
    clip_low: float | None = Field(default=None, gt=0, le=1)
    """The ratio counts at least 1 - clip_low; by default the algorithm's."""
    clip_high: float | None = Field(default=None, gt=0)
    """The ratio counts at most 1 + clip_high; by default the algorithm's."""
    kl: KlEstimator = KlEstimator.K3
    """The estimate of the KL to the reference, where beta > 0."""
    mask_truncated: bool | None = None
    """Learn nothing from completions that were cut at the longest length; by default the algorithm's."""
    dynamic_sampling: bool | None = None
    """Draw further questions in place of groups with equal rewards; by default the algorithm's."""
    updates_per_batch: int = Field(default=1, ge=1)
    """Optimizer steps on each batch."""
    correction: CorrectionSettings = CorrectionSettings()
    """Importance weights between the policy that sampled and the learner's."""

    @model_validator(mode="after")
    def _defaults_of_the_algorithm(self) -> Self:
        for name, value in _PRESETS[self.algorithm]:
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        return self

    @property
    def choices(self) -> Choices:
        """The job's own choices, and the algorithm's where it makes none."""
        return Choices.model_validate({name: getattr(self, name) for name in Choices.model_fields})
