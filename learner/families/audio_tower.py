"""Run the audio tower on a clip's own frames instead of on the clip padded to the model's full length.

There are two kinds: Whisper's, which attends over the whole clip, and Qwen2.5-Omni's, which attends within windows.
"""

from collections.abc import Sequence
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


def encode_clips(tower: Any, mels: Sequence[torch.Tensor], valid_frames: Sequence[int]) -> list[torch.Tensor]:
    """Return the encoder's output for each clip, shape (A, E) for A audio tokens, with gradient.

    The result equals transformers' forward on the padded clip, which masks padded positions out of the attention and
    drops them afterwards. Clips of equal length are computed together, without any mask.

    Args:
        tower: transformers' Qwen2AudioEncoder, or one of the same structure.
        mels: log-mel features, each (M, F) with F from `frames_kept`.
        valid_frames: number of the F frames that belong to the clip.
    """
    encoded: list[torch.Tensor | None] = [None] * len(mels)
    by_shape: dict[tuple[int, int], list[int]] = {}
    for i, (mel, valid) in enumerate(zip(mels, valid_frames, strict=True)):
        by_shape.setdefault((mel.shape[1], valid), []).append(i)
    weight = tower.conv1.weight
    for (_, valid), indices in by_shape.items():
        features = torch.stack([mels[i] for i in indices]).to(device=weight.device, dtype=weight.dtype)
        hidden = nn.functional.gelu(tower.conv1(features))
        hidden = nn.functional.gelu(tower.conv2(hidden)).permute(0, 2, 1)
        length = (valid - 1) // 2 + 1
        hidden = hidden[:, :length]
        hidden = hidden + tower.embed_positions(torch.arange(length, device=hidden.device))
        for layer in tower.layers:
            hidden = layer(hidden, None)
        pooled = tower.avg_pooler(hidden.permute(0, 2, 1)).permute(0, 2, 1)
        for i, one in zip(indices, tower.layer_norm(pooled), strict=True):
            encoded[i] = one
    return [e for e in encoded if e is not None]


def encode_clips_in_windows(tower: Any, mels: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the encoder's output for each clip before its last projection, shape (A, E) for A audio tokens.

    The output has a gradient. The encoder splits a clip into windows: convolutions, positions and attention restart
    in each window; only the final pooling runs over the whole clip.

    Args:
        tower: transformers' Qwen2_5OmniAudioEncoder, or one of the same structure.
        mels: log-mel features, each (M, F): the clip's valid frames only.
    """
    weight = tower.conv1.weight
    windows = [window for mel in mels for window in torch.split(mel, 2 * tower.n_window, dim=1)]
    frames = torch.tensor([window.shape[1] for window in windows], device=weight.device)
    features = pad_sequence([window.T for window in windows], batch_first=True).transpose(1, 2)
    hidden = nn.functional.gelu(tower.conv1(features.to(device=weight.device, dtype=weight.dtype)))
    # Past a window's end the second convolution reads zeros, as at the end of a clip.
    hidden = hidden * (torch.arange(hidden.shape[2], device=weight.device) < frames[:, None])[:, None]
    hidden = nn.functional.gelu(tower.conv2(hidden)).transpose(1, 2)
    hidden = hidden + tower.positional_embedding(hidden.shape[1]).to(hidden.dtype)
    lengths = [(window.shape[1] + 1) // 2 for window in windows]
    hidden = torch.cat([one[:length] for one, length in zip(hidden, lengths, strict=True)])
    bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=weight.device)
    for layer in tower.layers:
        (hidden,) = layer(hidden, cu_seqlens=bounds, max_seqlen=max(lengths))
    clips = torch.split(hidden, [(mel.shape[1] + 1) // 2 for mel in mels])
    # Pairs of neighbours are averaged; an odd one at the end is dropped.
    pooled = [clip[: len(clip) // 2 * 2].reshape(len(clip) // 2, 2, -1).mean(dim=1) for clip in clips]
    return [tower.ln_post(one) for one in pooled]
