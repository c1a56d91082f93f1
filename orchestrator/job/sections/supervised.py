"""Supervised training: the warm start, and fine-tuning."""

from pydantic import Field

from learner.schedule import Schedule
from learner.settings import OptimizerSettings
from orchestrator.job.sections.section import Section


class WarmStartOptimizer(OptimizerSettings):
    """AdamW of the warm start: a higher, constant rate."""

    learning_rate: float = Field(default=1e-5, gt=0)
    """Peak learning rate."""
    schedule: Schedule = Schedule.CONSTANT
    """How the rate moves after the warm-up: constant, linear, cosine."""


class WarmStartSection(Section):
    """A short supervised phase before the reinforcement learning, on right answers to a few training questions."""

    steps: int = Field(ge=1)
    """Optimizer steps."""
    batch_size: int = Field(default=32, ge=1)
    """Questions a step."""
    questions: int = Field(default=128, ge=1)
    """How many training questions it sees; they are drawn again until the steps are done."""
    optimizer: WarmStartOptimizer = WarmStartOptimizer()
    """AdamW and its schedule."""


class SupervisedSection(Section):
    """Supervised fine-tuning, where `method` is supervised."""

    batch_size: int = Field(default=16, ge=1)
    """Questions a step."""
