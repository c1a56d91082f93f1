"""Loads a Hugging Face checkpoint for training, and says in one line what is wrong with a folder that is none."""

import torch
from transformers import AutoProcessor, PreTrainedModel, ProcessorMixin, Qwen2AudioForConditionalGeneration


class ModelError(ValueError):
    """A model folder that cannot be used; the message names it and what is missing."""


def load_processor(folder: str) -> ProcessorMixin:
    """The processor a checkpoint comes with."""
    return AutoProcessor.from_pretrained(folder)


def load_model(folder: str, dtype: str) -> PreTrainedModel:
    """The checkpoint's model, in training mode, on the CPU.

    Args:
        folder: a Hugging Face checkpoint of a Qwen2-Audio.
        dtype: `float32` or `bfloat16`.

    Raises:
        ModelError: parameters of the model are missing from the checkpoint.
    """
    model, report = Qwen2AudioForConditionalGeneration.from_pretrained(
        folder, dtype=getattr(torch, dtype), output_loading_info=True
    )
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ModelError(f"{folder}: the checkpoint lacks {len(missing)} parameters, {missing[0]} among them")
    # Sinusoids, not weights: transformers freezes them when it builds a model, and forgets it when it loads one.
    model.model.audio_tower.embed_positions.requires_grad_(False)
    return model.train()
