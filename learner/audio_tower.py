"""The audio tower on a clip's own frames, instead of on the clip padded to the model's full length."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

MARGIN_FRAMES = 4
"""Frames kept behind the clip: the two convolutions at its end look at most three frames ahead."""


def frames_kept(valid_frames: int, padded_frames: int) -> int:
    """How many of the extractor's frames the encoder needs to be exact: valid ones and a margin, an even number."""
    return min(padded_frames, (valid_frames + MARGIN_FRAMES + 1) // 2 * 2)


def audio_tokens(valid_frames: int) -> int:
    """How many embeddings a clip becomes: a convolution of stride 2, then a pooling of 2."""
    return ((valid_frames - 1) // 2 + 1) // 2


def encode_clips(tower: Any, mels: Sequence[torch.Tensor], valid_frames: Sequence[int]) -> list[torch.Tensor]:
    """The encoder's output for each clip, shape (A, E) for A audio tokens, with gradient.

    Equal to transformers' forward on the padded clip: there, padded positions are masked out of the attention and
    dropped behind it. Clips of one length are computed together, without any mask.

    Args:
        tower: transformers' Qwen2AudioEncoder, or one of its kind.
        mels: log-mel features, each (M, F) as `frames_kept` says.
        valid_frames: how many of each F frames belong to the clip.
    """
    encoded: list[torch.Tensor | None] = [None] * len(mels)
    by_shape: dict[tuple[int, int], list[int]] = {}
    for i, (mel, valid) in enumerate(zip(mels, valid_frames, strict=True)):
        by_shape.setdefault((mel.shape[1], valid), []).append(i)
    weight = tower.conv1.weight
    for (_, valid), places in by_shape.items():
        features = torch.stack([mels[i] for i in places]).to(device=weight.device, dtype=weight.dtype)
        hidden = nn.functional.gelu(tower.conv1(features))
        hidden = nn.functional.gelu(tower.conv2(hidden)).permute(0, 2, 1)
        length = (valid - 1) // 2 + 1
        hidden = hidden[:, :length]
        hidden = hidden + tower.embed_positions(torch.arange(length, device=hidden.device))
        for layer in tower.layers:
            hidden = layer(hidden, None)
        pooled = tower.avg_pooler(hidden.permute(0, 2, 1)).permute(0, 2, 1)
        for i, one in zip(places, tower.layer_norm(pooled), strict=True):
            encoded[i] = one
    return [e for e in encoded if e is not None]
