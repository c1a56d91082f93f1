"""Rows of tokens: a prompt once, with any number of completions behind it that cannot see one another.

A row is `[prompt | c1 | … | cK]`. Positions restart behind the prompt for every completion, and the mask lets a
completion see the prompt and itself: each token is computed as if its completion stood alone. K = 1 is the plain way,
K = G computes a group's prompt, and its audio, once instead of G times.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

PADDING = -1
PROMPT = 0


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A question as the model reads it."""

    token_ids: tuple[int, ...]
    """P tokens, audio placeholders expanded."""
    mel: torch.Tensor
    """Log-mel features, float32, shape (M, F): the clip's valid frames and a margin (see `learner.audio_tower`)."""
    valid_frames: int
    """How many of the F frames belong to the clip."""


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt and K completions, with the place of each completion in the caller's order."""

    prompt: EncodedPrompt
    completions: tuple[tuple[int, ...], ...]
    sequence_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt.token_ids) + sum(len(c) for c in self.completions)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """B rows padded to T tokens, and the N places in them where a completion's token is predicted."""

    token_ids: torch.Tensor
    """int64, shape (B, T)."""
    position_ids: torch.Tensor
    """int64, shape (B, T)."""
    segments: torch.Tensor
    """int64, shape (B, T): 0 in the prompt, k in the k-th completion of the row, -1 in padding."""
    audio_mask: torch.Tensor
    """bool, shape (B, T): the prompt's audio placeholders; never a token of a completion."""
    mels: tuple[torch.Tensor, ...]
    """B log-mel features, each (M, F)."""
    valid_frames: tuple[int, ...]
    predictors: torch.Tensor
    """int64, shape (N,): flat index in (B, T) of the position whose hidden state predicts the token."""
    targets: torch.Tensor
    """int64, shape (N,): the tokens."""
    sequence_ids: torch.Tensor
    """int64, shape (N,): which of the caller's completions each token belongs to."""

    def attention_mask(self) -> torch.Tensor:
        """bool, shape (B, 1, T, T): query may look at key. Padding is seen by itself only (no softmax is empty)."""
        query, key = self.segments[:, :, None], self.segments[:, None, :]
        length = self.segments.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        mask = causal & ((key == PROMPT) | (key == query)) & (key != PADDING)
        return (mask | torch.eye(length, dtype=torch.bool))[:, None]


def make_rows(
    prompts: Sequence[EncodedPrompt], completions: Sequence[Sequence[tuple[int, ...]]], *, shared: bool
) -> list[Row]:
    """One row a group (`shared`) or one row a completion. Sequence ids count through all groups' completions.

    Empty completions stay: they have no token to predict, and their place in the count.
    """
    rows, first = [], 0
    for prompt, group in zip(prompts, completions, strict=True):
        ids = range(first, first + len(group))
        if shared:
            rows.append(Row(prompt, tuple(group), tuple(ids)))
        else:
            rows.extend(Row(prompt, (c,), (i,)) for c, i in zip(group, ids, strict=True))
        first += len(group)
    return rows


def cut(rows: Sequence[Row], token_budget: int) -> list[list[Row]]:
    """Cut rows, longest first, into batches of at most `token_budget` padded tokens (at least one row each)."""
    ordered = sorted(rows, key=len, reverse=True)
    batches: list[list[Row]] = []
    for row in ordered:
        if batches and (len(batches[-1]) + 1) * len(batches[-1][0]) <= token_budget:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def pack(rows: Sequence[Row], audio_token_id: int, pad_token_id: int) -> MicroBatch:
    """Lay rows out as one padded micro-batch."""
    length = max(len(row) for row in rows)
    shape = (len(rows), length)
    token_ids = torch.full(shape, pad_token_id)
    position_ids = torch.zeros(shape, dtype=torch.long)
    segments = torch.full(shape, PADDING)
    audio_mask = torch.zeros(shape, dtype=torch.bool)
    predictors: list[int] = []
    targets: list[int] = []
    sequence_ids: list[int] = []
    for b, row in enumerate(rows):
        prompt = torch.tensor(row.prompt.token_ids)
        p = len(prompt)
        token_ids[b, :p] = prompt
        position_ids[b, :p] = torch.arange(p)
        segments[b, :p] = PROMPT
        audio_mask[b, :p] = prompt == audio_token_id
        at = p
        for k, (completion, sequence_id) in enumerate(zip(row.completions, row.sequence_ids, strict=True), start=1):
            c = len(completion)
            token_ids[b, at : at + c] = torch.tensor(completion, dtype=torch.long)
            position_ids[b, at : at + c] = torch.arange(p, p + c)
            segments[b, at : at + c] = k
            predictors.extend(b * length + (p - 1 if j == 0 else at + j - 1) for j in range(c))
            targets.extend(completion)
            sequence_ids.extend([sequence_id] * c)
            at += c
    return MicroBatch(
        token_ids,
        position_ids,
        segments,
        audio_mask,
        tuple(row.prompt.mel for row in rows),
        tuple(row.prompt.valid_frames for row in rows),
        torch.tensor(predictors, dtype=torch.long),
        torch.tensor(targets, dtype=torch.long),
        torch.tensor(sequence_ids, dtype=torch.long),
    )
