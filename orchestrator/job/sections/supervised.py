"""Supervised training: the warm start, and supervised fine-tuning."""

from pydantic import Field

from learner.schedule import Schedule
from learner.settings import OptimizerSettings
from protocol.settings import Settings


class WarmStartOptimizer(OptimizerSettings):
    """AdamW of the warm start, with a higher, constant learning rate."""

    learning_rate: float = Field(default=1e-5, gt=0)
    """Peak learning rate."""
    schedule: Schedule = Schedule.CONSTANT
    """Learning rate schedule after the warm-up: constant, linear or cosine decay to zero."""


class WarmStartSection(Settings):
    """A short supervised phase before reinforcement learning, on the right answers to a few training questions."""

    steps: int = Field(ge=1)
    """Optimizer steps."""
    batch_size: int = Field(default=32, ge=1, le=65_536)
    """Questions per step."""
    questions: int = Field(default=128, ge=1)
    """Number of training questions; they are repeated until all steps are done."""
    optimizer: WarmStartOptimizer = WarmStartOptimizer()
    """AdamW and its learning rate schedule."""


class SupervisedSection(Settings):
    """Supervised fine-tuning; used with `method: supervised`."""

    batch_size: int = Field(default=16, ge=1, le=65_536)
    """Questions per step."""
