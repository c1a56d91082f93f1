"""Settings of the loss. `algorithm` sets the defaults of the other choices."""

from enum import StrEnum

from pydantic import Field, ValidationInfo, field_validator

from learner.losses.advantages import Advantage
from protocol.settings import Settings


class Algorithm(StrEnum):
    """A published algorithm: a preset of the choices below."""

    GRPO = "grpo"
    DR_GRPO = "dr_grpo"
    DAPO = "dapo"
    GSPO = "gspo"
    CISPO = "cispo"
    RLOO = "rloo"


class Aggregate(StrEnum):
    """Aggregation of the losses of tokens."""

    SEQUENCE_MEAN = "sequence_mean"
    """The mean over completions of each completion's mean over its tokens (GRPO)."""
    TOKEN_MEAN = "token_mean"
    """The mean over all tokens of the batch: long completions count more (DAPO)."""
    CONSTANT = "constant"
    """The mean over completions of each completion's sum, divided by the maximum completion length: no length bias
    (Dr. GRPO)."""
    SEQUENCE_SUM = "sequence_sum"
    """The mean over completions of each completion's sum: the log-probability of the whole answer (RLOO)."""


class KlEstimator(StrEnum):
    """Estimator of the KL divergence from the reference model."""

    K1 = "k1"
    """The value of k1 with the gradient of k2, since the gradient of k1 has mean zero."""
    K2 = "k2"
    K3 = "k3"
    """The paper's estimator."""


class CorrectionLevel(StrEnum):
    """The level at which importance weights are computed."""

    NONE = "none"
    TOKEN = "token"
    """One weight per token, its own ratio: small variance, some bias."""
    SEQUENCE = "sequence"
    """One weight per completion, the product of its tokens' ratios: unbiased before it is bounded, large variance."""


class CorrectionMode(StrEnum):
    """Treatment of importance weights above the bound."""

    TRUNCATE = "truncate"
    """They are set to the bound."""
    MASK = "mask"
    """They are set to 0, as are weights below 1 / bound: samples from a policy too different are ignored."""


class CorrectionSettings(Settings):
    """Importance weights, which correct for the difference between the sampling policy and the learner's."""

    level: CorrectionLevel | None = None
    """One weight per token, per completion, or none. Default: `token` if `rollout.max_staleness` is above 0, else
    `none`."""
    mode: CorrectionMode = CorrectionMode.TRUNCATE
    """Weights above the bound are set to the bound (`truncate`) or to 0 (`mask`)."""
    bound: float = Field(default=2.0, gt=1)
    """Maximum importance weight."""


class Choices(Settings):
    """All choices that define a loss."""

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


class LossSettings(Settings):
    """The loss of reinforcement learning."""

    algorithm: Algorithm = Algorithm.GRPO
    """Sets the defaults of the keys from `advantage` to `clip_high`, of `mask_truncated` and of `dynamic_sampling`. The
    first update of a batch is never clipped, whatever the bounds."""
    advantage: Advantage | None = None
    """Computation of advantages from the rewards of a group; by default the algorithm's."""
    aggregate: Aggregate | None = None
    """Aggregation of token losses; by default the algorithm's."""
    clip_low: float | None = Field(default=None, gt=0, le=1)
    """The probability ratio is clipped at 1 - clip_low from below; by default the algorithm's."""
    clip_high: float | None = Field(default=None, gt=0)
    """The probability ratio is clipped at 1 + clip_high from above; by default the algorithm's."""
    kl: KlEstimator = KlEstimator.K3
    """Estimator of the KL divergence from the reference model; used if `learner.beta` is above 0."""
    mask_truncated: bool | None = None
    """Exclude completions truncated at the maximum length from the loss; by default the algorithm's."""
    dynamic_sampling: bool | None = None
    """Replace groups with equal rewards by drawing further questions; by default the algorithm's."""
    updates_per_batch: int = Field(default=1, ge=1, le=1024)
    """Optimizer steps per batch."""
    correction: CorrectionSettings = CorrectionSettings()
    """Importance weights, which correct for the difference between the sampling policy and the learner's."""

    @field_validator(*Choices.model_fields)
    @classmethod
    def _fill_in_choice(cls, value: object, info: ValidationInfo) -> object:
        algorithm = info.data.get("algorithm")
        if value is not None or algorithm is None or info.field_name is None:
            return value
        return getattr(_PRESETS[algorithm], info.field_name)

    @property
    def choices(self) -> Choices:
        """The choices of the job file, and those of the algorithm for the keys that it leaves out."""
        return Choices.model_validate({name: getattr(self, name) for name in Choices.model_fields})
