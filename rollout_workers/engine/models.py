"""Changes to vLLM's model classes of the supported families, in the worker's process and in the engine's.

The classes are patched in place before a model is created: vLLM has no other way to configure these points.
"""

import importlib
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
from transformers.utils import is_torchvision_available
from vllm.platforms import current_platform
from vllm.utils.tensor_schema import TensorShape

from audio_qa.families import FamilyFacts
from audio_qa.model_folder.architecture import stores_head


def adapt() -> None:
    """Make vLLM's models accept Earshot's checkpoints. May be called more than once."""
    _accept_shorter_windows()
    _work_without_torchvision()
    _encode_each_clip_as_if_alone()
    _pack_experts_at_every_update()
    _encode_granites_clips_one_by_one()
    _keep_clips_of_running_requests()


def config_overrides(folder: str, facts: FamilyFacts) -> dict[str, Any]:
    """Return what replaces settings of a folder's config.json in the engine.

    Qwen2.5-Omni's and Qwen3-Omni's heads are the embedding if, and only if, the weights have no other: vLLM reads a
    setting of the language model, which is on by default in one of them, and transformers one of the thinker.
    """
    if facts.weights != "thinker.":
        return {}
    tied = not stores_head(Path(folder), facts)
    return {"thinker_config": {"tie_word_embeddings": tied, "text_config": {"tie_word_embeddings": tied}}}


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
    """Let Qwen2.5-Omni and Qwen3-Omni take audio without torchvision installed.

    vLLM's modules import one function from a module of transformers that needs torchvision; the module for Pillow has
    the same one. transformers' processors need it too, Earshot's do not.
    """
    resizing = "transformers.models.qwen2_vl.image_processing{}_qwen2_vl"
    if not is_torchvision_available():
        sys.modules.setdefault(resizing.format(""), importlib.import_module(resizing.format("_pil")))
    from vllm.model_executor.models import qwen2_5_omni_thinker, qwen3_omni_moe_thinker  # noqa: PLC0415

    from audio_qa.omni_processor import Omni3Processor, OmniProcessor  # noqa: PLC0415

    qwen2_5_omni_thinker.Qwen2_5OmniProcessor = OmniProcessor
    qwen3_omni_moe_thinker.Qwen3OmniMoeProcessor = Omni3Processor


def _encode_each_clip_as_if_alone() -> None:
    """Let Qwen3-Omni's audio tower encode a clip below one second as it does without other clips beside it.

    The tower fills up every window to the longest one of a batch. From the second convolution on, the end of a shorter
    window reads what the convolutions made of that silence, in place of zeros: a clip of one window would sound
    different next to a longer one, and the learner could not know which.
    """
    from vllm.model_executor.models.qwen3_omni_moe_thinker import Qwen3OmniMoeAudioEncoder  # noqa: PLC0415

    encode = Qwen3OmniMoeAudioEncoder.forward
    if getattr(encode, "one_length_at_a_time", False):
        return

    def forward(
        self: Any, input_features: torch.Tensor, feature_lens: torch.Tensor, aftercnn_lens: torch.Tensor
    ) -> torch.Tensor:
        frames, tokens = feature_lens.tolist(), aftercnn_lens.tolist()
        longest = [min(count, 2 * self.n_window) for count in frames]
        if len(set(longest)) == 1:
            return encode(self, input_features, feature_lens, aftercnn_lens)  # type: ignore[no-any-return]
        clips = torch.split(input_features, frames, dim=1)
        encoded: dict[int, torch.Tensor] = {}
        for window in set(longest):
            chosen = [i for i, length in enumerate(longest) if length == window]
            features = torch.cat([clips[i] for i in chosen], dim=1)
            at = torch.tensor(chosen, device=feature_lens.device)
            parts = encode(self, features, feature_lens[at], aftercnn_lens[at]).split([tokens[i] for i in chosen])
            encoded |= dict(zip(chosen, parts, strict=True))
        return torch.cat([encoded[i] for i in range(len(frames))])

    forward.one_length_at_a_time = True  # type: ignore[attr-defined]
    Qwen3OmniMoeAudioEncoder.forward = forward


def _encode_granites_clips_one_by_one() -> None:
    """Let Granite Speech encode a clip as it does without other clips beside it, and without torchaudio.

    vLLM fills up the clips of a batch with zeros and has no mask for them: the end of a shorter clip would sound
    different next to a longer one, and the learner could not know which.
    """
    from vllm.model_executor.models.granite_speech import GraniteSpeechForConditionalGeneration  # noqa: PLC0415

    from audio_qa.granite_processor import work_without_torchaudio  # noqa: PLC0415

    work_without_torchaudio()
    encode = GraniteSpeechForConditionalGeneration.embed_multimodal
    if getattr(encode, "one_by_one", False):
        return

    def embed_multimodal(self: Any, **kwargs: Any) -> list[torch.Tensor]:
        features, sizes = kwargs.get("input_features"), kwargs.get("audio_embed_sizes")
        if features is None or sizes is None:
            return list(encode(self, **kwargs))
        clips = zip(features, sizes.flatten().split(1), strict=True)
        # A clip has the shape (F / 2, 160), or (1, F / 2, 160) from the feature extractor of one clip.
        alone = [{"input_features": clip.reshape(1, *clip.shape[-2:]), "audio_embed_sizes": n} for clip, n in clips]
        return [embedding for one in alone for embedding in encode(self, **one)]

    embed_multimodal.one_by_one = True  # type: ignore[attr-defined]
    GraniteSpeechForConditionalGeneration.embed_multimodal = embed_multimodal


def _pack_experts_at_every_update() -> None:
    """Let a weight update pack experts for the CPU's kernel, as loading a model does.

    vLLM packs them at the first loading only, and would compute with the plain layout after an update. Kernels of GPUs
    take the plain layout.
    """
    from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import (  # noqa: PLC0415
        UnquantizedFusedMoEMethod,
    )

    load = UnquantizedFusedMoEMethod.process_weights_after_loading
    if not current_platform.is_cpu() or getattr(load, "packs", False):
        return

    def process_weights_after_loading(self: Any, layer: Any) -> None:
        kernel = self.moe_kernel
        load(self, layer)
        if kernel is not None:
            kernel.fused_experts.process_weights_after_loading(layer)

    process_weights_after_loading.packs = True  # type: ignore[attr-defined]
    UnquantizedFusedMoEMethod.process_weights_after_loading = process_weights_after_loading


def _keep_clips_of_running_requests() -> None:
    """Let a request whose prompt was in the prefix cache be computed again from its clip.

    vLLM removes the clip from such a request on its way to the model. If a weight update then resets the caches with
    requests in flight, the encoder needs the clip and ends the engine ("Encoder cache miss").
    """
    from vllm.v1.core.sched import output  # noqa: PLC0415

    output.strip_covered_mm_data = lambda mm_features, *_, **__: mm_features
