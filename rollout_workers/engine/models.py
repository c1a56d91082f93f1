"""What vLLM's classes of the families that Earshot trains need changed, in the worker's process and in the engine's.

They are changed in place, before a model is made: vLLM offers no other way to say these things.
"""

import importlib
import sys
from typing import Annotated

import torch
from transformers.utils import is_torchvision_available
from vllm.utils.tensor_schema import TensorShape


def adapt() -> None:
    """Make vLLM's models take what Earshot's checkpoints are. May be called more than once."""
    _hear_less_than_thirty_seconds()
    _do_without_torchvision()
    _keep_clips_of_running_requests()


def _hear_less_than_thirty_seconds() -> None:
    """Let Qwen2-Audio and Audio Flamingo 3 take as many mel frames as the checkpoint's feature extractor makes.

    Their input checks insist on the 3000 of the published models and would end the engine of a smaller one; the code
    behind them works with any number.
    """
    from vllm.model_executor.models import audioflamingo3, qwen2_audio  # noqa: PLC0415

    features = Annotated[torch.Tensor | list[torch.Tensor], TensorShape("clips", "mel_bins", "mel_frames")]
    mask = Annotated[torch.Tensor, TensorShape("clips", "mel_frames")]
    for checked in (qwen2_audio.Qwen2AudioFeatureInputs, audioflamingo3.AudioFlamingo3FeatureInputs):
        checked.__annotations__ |= {"input_features": features, "feature_attention_mask": mask}


def _do_without_torchvision() -> None:
    """Let Qwen2.5-Omni be asked about sound where there is no torchvision.

    vLLM's module takes one function from a module of transformers that cannot be imported without it; the module for
    Pillow has the same one. And transformers' processor cannot be made without it: ours can.
    """
    resizing = "transformers.models.qwen2_vl.image_processing{}_qwen2_vl"
    if not is_torchvision_available():
        sys.modules.setdefault(resizing.format(""), importlib.import_module(resizing.format("_pil")))
    from vllm.model_executor.models import qwen2_5_omni_thinker  # noqa: PLC0415

    from audio_qa.omni_processor import OmniProcessor  # noqa: PLC0415

    qwen2_5_omni_thinker.Qwen2_5OmniProcessor = OmniProcessor


def _keep_clips_of_running_requests() -> None:
    """Let a request whose prompt was in the prefix cache be computed again from its clip.

    vLLM takes the clip from such a request on its way to the model. When a weight update then has the caches reset with
    requests in flight, the encoder needs the clip and ends the engine ("Encoder cache miss").
    """
    from vllm.v1.core.sched import output  # noqa: PLC0415

    output.strip_covered_mm_data = lambda mm_features, *_, **__: mm_features
