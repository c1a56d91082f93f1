"""Run the audio tower on a clip's own frames instead of on the clip padded to the model's full length.

There are two kinds: Whisper's, which attends over the whole clip, and Qwen2.5-Omni's, which attends within windows.
"""

from collections.abc import Hashable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

MARGIN_FRAMES = 4
"""Frames kept after the clip: at its end the two convolutions look at most three frames ahead."""


def frames_kept(valid_frames: int, padded_frames: int) -> int:
    """Return how many of the extractor's frames an exact encoder needs: the valid ones and a margin, an even number."""
    return min(padded_frames, (valid_frames + MARGIN_FRAMES + 1) // 2 * 2)


def divide_into_passes(keys: Sequence[Hashable], at_least: int = 0) -> list[list[int]]:
    """Return the indices of the clips of each pass: one pass for each key, or `at_least` so many if clips suffice.

    Args:
        keys: each clip's `Family.pass_key`; only clips with equal keys share a pass.
        at_least: the largest passes are halved until there are so many.
    """
    by_key: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        by_key.setdefault(key, []).append(i)
    passes = list(by_key.values())
    while len(passes) < min(at_least, len(keys)):
        largest = max(passes, key=len)
        middle = len(largest) // 2
        passes.append(largest[middle:])
        del largest[middle:]
    return passes


def encode_clips(tower: Any, mels: Sequence[torch.Tensor], valid_frames: int) -> list[torch.Tensor]:
    """Return the encoder's output for clips of equal length, each of shape (A, E) for A audio tokens, with gradient.

    The result equals transformers' forward on the padded clip, which masks padded positions out of the attention and
    drops them afterwards. Clips of equal length need no mask.

    Args:
        tower: transformers' Qwen2AudioEncoder, or one of the same structure.
        mels: log-mel features, each (M, F) with F from `frames_kept`.
        valid_frames: number of the F frames that belong to the clip.
    """
    like = _first_parameter(tower)
    features = torch.stack(list(mels)).to(device=like.device, dtype=like.dtype)
    hidden = nn.functional.gelu(tower.conv1(features))
    hidden = nn.functional.gelu(tower.conv2(hidden)).permute(0, 2, 1)
    length = (valid_frames - 1) // 2 + 1
    hidden = hidden[:, :length]
    hidden = hidden + tower.embed_positions(torch.arange(length, device=hidden.device))
    for layer in tower.layers:
        hidden = layer(hidden, None)
    pooled = tower.avg_pooler(hidden.permute(0, 2, 1)).permute(0, 2, 1)
    return list(tower.layer_norm(pooled))


def encode_clips_in_windows(tower: Any, mels: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the encoder's output for each clip before its last projection, shape (A, E) for A audio tokens.

    The output has a gradient. The encoder splits a clip into windows: convolutions, positions and attention restart
    in each window; only the final pooling runs over the whole clip.

    Args:
        tower: transformers' Qwen2_5OmniAudioEncoder, or one of the same structure.
        mels: log-mel features, each (M, F): the clip's valid frames only.
    """
    like = _first_parameter(tower)
    windows = [window for mel in mels for window in torch.split(mel, 2 * tower.n_window, dim=1)]
    frames = torch.tensor([window.shape[1] for window in windows], device=like.device)
    features = pad_sequence([window.T for window in windows], batch_first=True).transpose(1, 2)
    hidden = nn.functional.gelu(tower.conv1(features.to(device=like.device, dtype=like.dtype)))
    # Past a window's end the second convolution reads zeros, as at the end of a clip.
    hidden = hidden * (torch.arange(hidden.shape[2], device=like.device) < frames[:, None])[:, None]
    hidden = nn.functional.gelu(tower.conv2(hidden)).transpose(1, 2)
    hidden = hidden + tower.positional_embedding(hidden.shape[1]).to(hidden.dtype)
    lengths = [(window.shape[1] + 1) // 2 for window in windows]
    hidden = torch.cat([one[:length] for one, length in zip(hidden, lengths, strict=True)])
    bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=like.device)
    for layer in tower.layers:
        (hidden,) = layer(hidden, cu_seqlens=bounds, max_seqlen=max(lengths))
    clips = torch.split(hidden, [(mel.shape[1] + 1) // 2 for mel in mels])
    # Pairs of neighbours are averaged; an odd one at the end is dropped.
    pooled = [clip[: len(clip) // 2 * 2].reshape(len(clip) // 2, 2, -1).mean(dim=1) for clip in clips]
    # One call for all clips: under ZeRO-3 the ranks have to agree in the number of calls.
    return list(torch.split(tower.ln_post(torch.cat(pooled)), [len(one) for one in pooled]))


def _first_parameter(tower: Any) -> nn.Parameter:
    """Return a parameter, for device and type. Reading one of a module by its name would gather it under ZeRO-3."""
    first: nn.Parameter = next(tower.parameters())
    return first
