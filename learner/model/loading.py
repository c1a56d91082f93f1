"""Loads a Hugging Face checkpoint for training, and says in one line what is wrong with a folder that is none."""

import torch
from transformers import PreTrainedModel, ProcessorMixin

from audio_qa import processor
from learner.families.family import Family
from learner.model.attention import NAME as ROW_ATTENTION


class ModelError(ValueError):
    """A model folder that cannot be used; the message names it and what is missing."""


def load_processor(folder: str) -> ProcessorMixin:
    """The processor a checkpoint comes with, as the rollout workers load it."""
    loaded: ProcessorMixin = processor.load_processor(folder)
    return loaded


def load_model(family: Family, folder: str, dtype: str) -> PreTrainedModel:
    """The checkpoint's model, in training mode, on the CPU, its decoder attending over rows.

    Args:
        folder: a Hugging Face checkpoint of `family`.
        dtype: `float32` or `bfloat16`.

    Raises:
        ModelError: parameters of the model are missing from the checkpoint, or it attends over a sliding window.
    """
    model, missing = family.load(folder, getattr(torch, dtype))
    if missing:
        raise ModelError(f"{folder}: the checkpoint lacks {len(missing)} parameters, {missing[0]} among them")
    attend_by_rows(family, model)
    return model.train()


def attend_by_rows(family: Family, model: PreTrainedModel) -> None:
    """Have the model's decoder attend over packed rows; its own forward can then no longer be called.

    Raises ModelError for a decoder with sliding windows: a row's tokens would see more than they should.
    """
    config = family.decoder(model).config
    if set(config.layer_types) != {"full_attention"}:
        raise ModelError(
            f"{config.model_type}: layers with a sliding window cannot be trained; use_sliding_window is on"
        )
    config._attn_implementation = ROW_ATTENTION


def compile_layers(family: Family, model: PreTrainedModel, backend: str = "inductor") -> None:
    """Have the decoder's layers compiled at their next use: once for all of them, and for batches of any length.

    They are compiled anew with and without gradients, with and without adapters, and for batches below 128 tokens.
    """
    for layer in family.decoder(model).layers:
        layer.compile(dynamic=True, backend=backend)
