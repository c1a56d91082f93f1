"""A tiny model of each family: transformers' real classes, random weights, clips of two seconds.

The tokenizer is the tiny Qwen2-Audio's followed by the family's special tokens; the processor is the family's own.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from support.families.audio_flamingo_3 import flamingo_model, flamingo_processor
from support.families.glm_asr import glm_model, glm_processor
from support.families.granite_speech import granite_model, granite_processor
from support.families.qwen2_5_omni import omni_model, omni_processor
from support.families.qwen3_omni import omni3_model, omni3_processor
from transformers import GenerationConfig

from learner.checkpoint.export import write_checkpoint
from learner.families.registry import FAMILIES
from learner.tiny import architecture


@dataclass(frozen=True)
class Tiny:
    """Constructors of a tiny model."""

    processor: Callable[[], Any]
    model: Callable[[Any], Any]


TINY = {
    "qwen2_audio": Tiny(
        architecture.make_processor,
        lambda processor: architecture.make_model(architecture.make_config(processor), seed=0),
    ),
    "qwen2_5_omni": Tiny(omni_processor, omni_model),
    "qwen3_omni_moe": Tiny(omni3_processor, omni3_model),
    "audioflamingo3": Tiny(flamingo_processor, flamingo_model),
    "glmasr": Tiny(glm_processor, glm_model),
    "granite_speech": Tiny(granite_processor, granite_model),
}
"""Constructors by `model_type`."""


def write_tiny(model_type: str, folder: Path) -> Path:
    """Write a checkpoint of the tiny model with the learner's writer. It is made once, and copied."""
    return shutil.copytree(_made(model_type), folder, dirs_exist_ok=True)


@cache
def _home() -> TemporaryDirectory[str]:
    return TemporaryDirectory()


@cache
def _made(model_type: str) -> Path:
    folder = Path(_home().name) / model_type
    tiny = TINY[model_type]
    processor = tiny.processor()
    torch.manual_seed(0)
    model = tiny.model(processor)
    if model_type != "qwen2_audio":
        tokenizer = processor.tokenizer
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                # transformers' small initial weights would make every answer nearly uniform for all audio.
                if "embed_positions" not in name:
                    parameter.add_(torch.randn_like(parameter) * (0.1 if parameter.ndim > 1 else 0.05))
        model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, do_sample=True)
    write_checkpoint(folder, FAMILIES[model_type], model, processor)
    return folder
