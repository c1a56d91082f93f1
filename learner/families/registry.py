"""Which family a checkpoint belongs to."""

import json
from pathlib import Path

from learner.families.family import Family
from learner.families.qwen2_audio import Qwen2Audio

FAMILIES: dict[str, Family] = {family.model_type: family for family in (Qwen2Audio(),)}
"""By the `model_type` of config.json."""


def family_of(folder: str) -> Family:
    """The family of the checkpoint in `folder`. Raises KeyError for one that is not known."""
    return FAMILIES[json.loads((Path(folder) / "config.json").read_text())["model_type"]]
