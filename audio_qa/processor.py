"""The processor of a checkpoint, for rollout workers and the learner alike."""

from pathlib import Path
from typing import Any

from audio_qa.errors import cause_of
from audio_qa.families import facts_of
from audio_qa.model_folder.documents import AGAIN, ModelError

_GENERATION = "generation_config.json"
"""Read with the model, by the learner and by vLLM."""


def load_processor(folder: str) -> Any:
    """Return the transformers processor of the checkpoint in `folder`: chat template, tokenizer, feature extractor.

    Raises ModelError: one line with what transformers finds wrong.
    """
    # transformers takes seconds to import, and is not part of the base install.
    from transformers import AutoConfig, AutoProcessor, GenerationConfig  # noqa: PLC0415

    kind = AutoProcessor
    if facts_of(folder).model_type in ("qwen2_5_omni", "qwen3_omni_moe"):
        from audio_qa.omni_processor import Omni3Processor, OmniProcessor  # noqa: PLC0415

        kind = OmniProcessor if facts_of(folder).model_type == "qwen2_5_omni" else Omni3Processor
    if facts_of(folder).model_type == "granite_speech":
        from audio_qa.granite_processor import GraniteProcessor  # noqa: PLC0415

        kind = GraniteProcessor
    what = "config.json"
    try:
        AutoConfig.from_pretrained(folder)
        if (Path(folder) / _GENERATION).is_file():
            what = _GENERATION
            GenerationConfig.from_pretrained(folder)
        what = "processor"
        processor = kind.from_pretrained(folder)
    except Exception as error:  # tokenizers raises Exception itself
        raise ModelError(f"{folder!r}: its {what} cannot be loaded ({cause_of(error)}); {AGAIN}") from error
    for part in ("tokenizer", "feature_extractor"):
        if getattr(processor, part, None) is None:
            raise ModelError(f"{folder!r}: its processor has no {part.replace('_', ' ')}; {AGAIN}")
    if not getattr(processor, "chat_template", None):
        raise ModelError(
            f"{folder!r} has no chat template; put the model's chat_template.jinja or chat_template.json there, or "
            f"{AGAIN}"
        )
    return processor
