"""What every part of the job file is."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the job file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
