"""The processor of a checkpoint, for rollout workers and the learner alike."""

from typing import Any

from audio_qa.families import read_config


def load_processor(folder: str) -> Any:
    """Return the transformers processor of the checkpoint in `folder`: chat template, tokenizer, feature extractor."""
    # transformers takes seconds to import, and is not part of the base install.
    if read_config(folder)["model_type"] == "qwen2_5_omni":
        from audio_qa.omni_processor import OmniProcessor  # noqa: PLC0415

        return OmniProcessor.from_pretrained(folder)
    from transformers import AutoProcessor  # noqa: PLC0415

    return AutoProcessor.from_pretrained(folder)
