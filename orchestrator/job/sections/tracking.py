"""Experiment trackers that receive a job's metrics, besides its run directory."""

from typing import Annotated

from pydantic import Field

from protocol.marks import Names
from protocol.settings import Settings

RUN_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._/ -]{0,127}$"


class WandbSettings(Settings):
    """Weights & Biases. The key comes from WANDB_API_KEY in the environment of the job."""

    project: Annotated[str, Names.TRACKED] = Field(default="earshot", pattern=RUN_NAME_PATTERN)
    """Project of the run."""
    offline: bool = False
    """Write to the run directory only, for a later upload with `wandb sync`."""


class MlflowSettings(Settings):
    """MLflow at MLFLOW_TRACKING_URI in the environment of the job; without the variable, in the run directory."""

    experiment: Annotated[str, Names.TRACKED] = Field(default="earshot", pattern=RUN_NAME_PATTERN)
    """Experiment of the run."""


class TrackingSettings(Settings):
    """Experiment trackers, in addition to TensorBoard's event files, which every run has."""

    wandb: WandbSettings | None = None
    """Log to Weights & Biases; off without this section."""
    mlflow: MlflowSettings | None = None
    """Log to MLflow; off without this section."""
