"""The model that is trained."""

from typing import Annotated, Literal

from pydantic import Field

from protocol.marks import PathTo
from protocol.settings import Settings

TINY_MODEL = "builtin:tiny-qwen2-audio"
"""Pre-trained on audio, without instruction tuning."""
TINY_INSTRUCT = "builtin:tiny-qwen2-audio-instruct"
"""The same model, fine-tuned to answer each of the paper's prompts."""
TINY_MODELS = (TINY_MODEL, TINY_INSTRUCT)
TINY_CONTEXT = 512
"""Context length of the tiny model, in tokens."""
TINY_HEADS = 6
"""Attention heads of the tiny model, each with keys and values of its own."""


class ModelSection(Settings):
    """The model that is trained."""

    path: Annotated[str, PathTo.MODEL]
    """Folder with a Hugging Face checkpoint and its processor, or a tiny model that is built on first use:
    `builtin:tiny-qwen2-audio` (pre-trained on audio) or `builtin:tiny-qwen2-audio-instruct` (also answers the paper's
    prompts)."""
    max_context: int = Field(default=2048, ge=16, le=2**20)
    """Maximum length of prompt and completion together, in tokens; a 30 s clip takes 750."""
    too_long: Literal["refuse", "truncate"] = "refuse"
    """For a clip longer than the model's audio input: refuse its question, or truncate the clip; both are reported."""
