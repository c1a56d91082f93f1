"""The model that is trained."""

from typing import Literal

from pydantic import Field

from orchestrator.job.sections.section import Section

TINY_MODEL = "builtin:tiny-qwen2-audio"
"""Hears, and has never been asked a question."""
TINY_INSTRUCT = "builtin:tiny-qwen2-audio-instruct"
"""The same model after it was shown how each of the paper's prompts is answered."""
TINY_MODELS = (TINY_MODEL, TINY_INSTRUCT)
TINY_CONTEXT = 512
"""Tokens the tiny model holds."""


class ModelSection(Section):
    """The model that is trained."""

    path: str
    """A folder with a Hugging Face checkpoint and its processor; or what is made here: `builtin:tiny-qwen2-audio`
    hears, `builtin:tiny-qwen2-audio-instruct` can answer the paper's prompts, too."""
    max_context: int = Field(default=2048, ge=16)
    """Longest prompt plus completion, in tokens; a 30 s clip is 750 of them."""
    too_long: Literal["refuse", "truncate"] = "refuse"
    """A clip longer than the model hears: refuse its question, or cut the clip (reported either way)."""
