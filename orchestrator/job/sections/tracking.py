"""What a job says of where its metrics go beside its run directory."""

from pydantic import BaseModel, ConfigDict, Field

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._/ -]{0,127}$"


class WandbSettings(BaseModel):
    """Weights & Biases; the key is taken from WANDB_API_KEY where the job runs."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    project: str = Field(default="earshot", pattern=_NAME)
    """The project the run belongs to."""
    offline: bool = False
    """Write to the run directory only; `wandb sync` uploads it later."""


class MlflowSettings(BaseModel):
    """MLflow, at MLFLOW_TRACKING_URI where the job runs; without that in the run directory."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    experiment: str = Field(default="earshot", pattern=_NAME)
    """The experiment the run belongs to."""


class TrackingSettings(BaseModel):
    """Beside TensorBoard's event files, which every run has."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    wandb: WandbSettings | None = None
    """Weights & Biases; not without this section."""
    mlflow: MlflowSettings | None = None
    """MLflow; not without this section."""
