"""Marks at the fields of settings: `steps: Annotated[int, Resume.FREE]`.

Code that depends on a property of fields reads the marks (`orchestrator.job.marked`) instead of a list of field names.

Every text of a job file is a choice of a few (Literal, Enum), or has a mark `PathTo` or `Names` that says what it leads
to. The mark is at the field, or at the type within it: `tuple[Annotated[str, Names.MODULE], ...]`.
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
    CACHE = "cache"
    """A folder that jobs write to and read from. It need not exist."""


class Names(Enum):
    """Kinds of text other than paths, by what the text names."""

    JUDGE = "judge"
    """The URL of an endpoint that the job sends completions to."""
    SECRET = "secret"
    """An environment variable whose value the job sends to the endpoint of a judge."""
    MODULE = "module"
    """A Python module whose code the job runs."""
    REWARD = "reward"
    """A reward function: a built-in one, or one of a module."""
    STORAGE = "storage"
    """The URL of a folder that the job writes its run to."""
    CLUSTER = "cluster"
    """The address of a Ray cluster that the job runs on."""
    TRACKED = "tracked"
    """A project of an experiment tracker, whose address and key are in the environment of the job."""
    NOTHING = "nothing"
    """Nothing: a label, a prompt, or a name within a file that the job reads."""


KINDS: tuple[Enum, ...] = (*PathTo, *Names)
"""All that a text can lead to."""
