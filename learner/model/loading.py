"""Load a Hugging Face checkpoint for training; an unusable folder gives an error of one line."""

import torch
from transformers import PreTrainedModel, ProcessorMixin

from audio_qa import processor
from audio_qa.errors import cause_of
from audio_qa.model_folder.documents import AGAIN, ModelError
from learner.families.family import Family
from learner.model.attention import NAME as ROW_ATTENTION


def load_processor(folder: str) -> ProcessorMixin:
    """Return the processor of a checkpoint, loaded as the rollout workers load it."""
    loaded: ProcessorMixin = processor.load_processor(folder)
    return loaded


def load_model(family: Family, folder: str, dtype: str) -> PreTrainedModel:
    """Return the checkpoint's model on the CPU, in training mode, with row attention in its decoder.

    Args:
        folder: a Hugging Face checkpoint of `family`.
        dtype: `float32` or `bfloat16`.

    Raises:
        ModelError: the checkpoint cannot be read, its weights are not those of the model, or the model attends over a
            sliding window.
    """
    try:
        model, faults = family.load(folder, getattr(torch, dtype))
    except (RuntimeError, MemoryError):
        raise  # not the folder's
    except Exception as error:  # of safetensors, of transformers' checks of a configuration
        raise ModelError(f"{folder!r}: the model cannot be loaded ({cause_of(error)}); {AGAIN}") from error
    if faults:
        raise ModelError(f"{folder!r}: the checkpoint {'; it '.join(faults)}; {AGAIN}")
    attend_by_rows(family, model)
    return model.train()


def attend_by_rows(family: Family, model: PreTrainedModel) -> None:
    """Switch the model's decoder to attention over packed rows. Its own forward can no longer be called afterwards.

    Raises ModelError for a decoder with sliding windows, which row attention does not implement.
    """
    config = family.decoder(model).config
    if set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
        raise ModelError(
            f"{config.model_type}: layers with a sliding window cannot be trained; use_sliding_window is set"
        )
    config._attn_implementation = ROW_ATTENTION


def compile_layers(family: Family, model: PreTrainedModel, backend: str = "inductor") -> None:
    """Compile the decoder's layers at their next use, once for all layers and for batches of any length.

    There are separate compilations with and without gradients, with and without adapters, and for batches below 128
    tokens. Raises ModelError for experts in float32: torch compiles their grouped products in bfloat16 only.
    """
    if model.dtype == torch.float32 and getattr(family.decoder(model).config, "num_experts", 0):
        raise ModelError(
            f"{family.facts.name}: its experts are compiled in bfloat16 only; set learner.dtype to bfloat16, or "
            "learner.compile to false"
        )
    for layer in family.decoder(model).layers:
        layer.compile(dynamic=True, backend=backend)
