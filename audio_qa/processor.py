"""The processor a checkpoint comes with: the same one for whoever samples from a model and whoever trains it."""

from typing import Any

from audio_qa.families import read_config


def load_processor(folder: str) -> Any:
    """transformers' processor of the checkpoint in `folder`: chat template, tokenizer and feature extractor."""
    # transformers takes seconds to import, and the base install has none.
    if read_config(folder)["model_type"] == "qwen2_5_omni":
        from audio_qa.omni_processor import OmniProcessor  # noqa: PLC0415

        return OmniProcessor.from_pretrained(folder)
    from transformers import AutoProcessor  # noqa: PLC0415

    return AutoProcessor.from_pretrained(folder)
