"""Marks at the fields of settings: `steps: Annotated[int, Resume.FREE]`.

Code that depends on a property of fields reads the marks (`orchestrator.job.marked`) instead of a list of field names.
"""

from enum import Enum


class Resume(Enum):
    """When a resumed run may have another value than before. A field without this mark must keep its value.

    A path (`PathTo`) may be another one that leads to the same content.
    """

    FREE = "free"
    """Always: the field says how much is done, where it is done, or what is kept."""
    FREE_UNLESS_DETERMINISTIC = "free_unless_deterministic"
    """If the job is not deterministic: the field changes the last bits of the numbers."""


class PathTo(Enum):
    """The field holds a path, by what it leads to. A relative path starts at the folder of the job file."""

    MODEL = "model"
    """The folder of a Hugging Face checkpoint."""
    CLIPS = "clips"
    """The folder that relative paths of clips start at."""
    SOLVE_RATES = "solve_rates"
    """A file with measured solve rates."""
    QUESTIONS = "questions"
    """A question file or dataset. Its clips are paths too, which start at a folder of `CLIPS`."""
