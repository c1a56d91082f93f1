"""Qwen3-Omni's audio tower on the own frames of several clips at once."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence


def encode_clips_by_second(tower: Any, mels: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the encoder's output for each clip before its projector, shape (A, E) for A audio tokens.

    The output has a gradient, and equals that of transformers for each clip by itself. Convolutions and positions
    restart in each window of `2 * tower.n_window` frames (a second), attention every `tower.n_window_infer` frames.

    Args:
        tower: transformers' Qwen3OmniMoeAudioEncoder.
        mels: log-mel features, each (M, F): the clip's valid frames only.
    """
    # Reading a parameter by its name would gather it under ZeRO-3.
    like: nn.Parameter = next(tower.parameters())
    frames = 2 * tower.n_window
    windows = [window for mel in mels for window in torch.split(mel, frames, dim=1)]
    lengths = [window.shape[1] for window in windows]
    # The last window of a clip is filled up to the length of the others, and only a clip of one window ends there.
    whole = [min(mel.shape[1], frames) for mel in mels for _ in range(0, mel.shape[1], frames)]
    hidden = pad_sequence([window.T for window in windows], batch_first=True).transpose(1, 2)[:, None]
    hidden = hidden.to(device=like.device, dtype=like.dtype)
    read = torch.tensor(whole, device=like.device)
    for convolution in (tower.conv2d1, tower.conv2d2, tower.conv2d3):
        # Past that end a convolution reads zeros, whatever the longest window of the batch is.
        hidden = hidden * (torch.arange(hidden.shape[3], device=like.device) < read[:, None])[:, None, None]
        hidden = nn.functional.gelu(convolution(hidden))
        read, lengths = (read + 1) // 2, [(length + 1) // 2 for length in lengths]
    hidden = tower.conv_out(hidden.permute(0, 3, 1, 2).flatten(2))
    hidden = hidden + tower.positional_embedding(hidden.shape[1]).to(hidden.dtype)
    hidden = torch.cat([one[:length] for one, length in zip(hidden, lengths, strict=True)])
    counts = list(map(sum, _by_clip(lengths, [-(-mel.shape[1] // frames) for mel in mels])))
    # A window of attention has this many tokens: those of whole windows of the convolutions.
    most = -(-frames // 8) * (tower.n_window_infer // frames)
    parts = [min(most, count - start) for count in counts for start in range(0, count, most)]
    bounds = torch.tensor([0, *accumulate(parts)], dtype=torch.int32, device=like.device)
    for layer in tower.layers:
        (hidden,) = layer(hidden, bounds, max_seqlen=max(parts))
    return list(torch.split(tower.ln_post(hidden), counts))


def _by_clip(lengths: Sequence[int], counts: Sequence[int]) -> list[Sequence[int]]:
    """Split the windows' lengths after each clip's number of windows."""
    ends = list(accumulate(counts))
    return [lengths[end - count : end] for end, count in zip(ends, counts, strict=True)]
