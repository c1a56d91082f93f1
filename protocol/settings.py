"""The base class of all settings that a job file holds.

Invariant: settings cannot be changed, at any depth. Their fields hold numbers, strings, enums, tuples, frozen mappings
(`protocol.frozen_mapping`) and other settings.
"""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A section of a job file: unknown keys are errors, numbers are finite, and nothing can be changed.

    Field validators fill in defaults that depend on other fields (they run for defaults too), so the constructor and
    `model_validate` make equal settings from equal values.
    """

    model_config = ConfigDict(
        allow_inf_nan=False,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        validate_default=True,
    )
