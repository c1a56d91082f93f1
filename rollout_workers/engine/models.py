"""Changes to vLLM's model classes of the supported families, in the worker's process and in the engine's.

The classes are patched in place before a model is created: vLLM has no other way to configure these points.
"""

import importlib
import sys
from typing import Annotated

import torch
from transformers.utils import is_torchvision_available
from vllm.utils.tensor_schema import TensorShape


def adapt() -> None:
    """Make vLLM's models accept Earshot's checkpoints. May be called more than once."""
    _accept_shorter_windows()
    _work_without_torchvision()
    _keep_clips_of_running_requests()


def _accept_shorter_windows() -> None:
    """Let Qwen2-Audio and Audio Flamingo 3 take as many mel frames as the checkpoint's feature extractor makes.

    Their input checks require the 3000 frames of the published models and would end the engine of a smaller one; the
    model code itself works with any number.
    """
    from vllm.model_executor.models import audioflamingo3, qwen2_audio  # noqa: PLC0415

    features = Annotated[torch.Tensor | list[torch.Tensor], TensorShape("clips", "mel_bins", "mel_frames")]
    mask = Annotated[torch.Tensor, TensorShape("clips", "mel_frames")]
    for checked in (qwen2_audio.Qwen2AudioFeatureInputs, audioflamingo3.AudioFlamingo3FeatureInputs):
        checked.__annotations__ |= {"input_features": features, "feature_attention_mask": mask}


def _work_without_torchvision() -> None:
    """Let Qwen2.5-Omni take audio without torchvision installed.

    vLLM's module imports one function from a module of transformers that needs torchvision; the module for Pillow has
    the same one. transformers' processor needs it too, Earshot's does not.
    """
    resizing = "transformers.models.qwen2_vl.image_processing{}_qwen2_vl"
    if not is_torchvision_available():
        sys.modules.setdefault(resizing.format(""), importlib.import_module(resizing.format("_pil")))
    from vllm.model_executor.models import qwen2_5_omni_thinker  # noqa: PLC0415

    from audio_qa.omni_processor import OmniProcessor  # noqa: PLC0415

    qwen2_5_omni_thinker.Qwen2_5OmniProcessor = OmniProcessor


def _keep_clips_of_running_requests() -> None:
    """Let a request whose prompt was in the prefix cache be computed again from its clip.

    vLLM removes the clip from such a request on its way to the model. If a weight update then resets the caches with
    requests in flight, the encoder needs the clip and ends the engine ("Encoder cache miss").
    """
    from vllm.v1.core.sched import output  # noqa: PLC0415

    output.strip_covered_mm_data = lambda mm_features, *_, **__: mm_features
