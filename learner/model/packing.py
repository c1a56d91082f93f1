"""Rows of tokens: a prompt once, with any number of completions behind it that cannot see one another.

A row is `[prompt | c1 | … | cK]`. Positions restart behind the prompt for every completion, and a completion sees the
prompt and itself: each token is computed as if its completion stood alone. K = 1 is the plain path, K = G computes a
group's prompt, and its audio, once instead of G times.

Rows lie one behind the other in one sequence without any padding, so a micro-batch costs what its tokens cost.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

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
    clip: str = ""
    """Names the clip's content for caches of what is computed from it; empty: never cached."""


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt and K completions, with the place of each completion in the caller's order."""

    prompt: EncodedPrompt
    completions: tuple[tuple[int, ...], ...]
    sequence_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt.token_ids) + sum(len(c) for c in self.completions)


@dataclass(frozen=True, slots=True)
class Span:
    """Where a row lies in its micro-batch."""

    start: int
    prompt: int
    """P, tokens of the prompt."""
    completions: tuple[int, ...]
    """Tokens of each of the K completions."""

    @property
    def first_completion(self) -> int:
        return self.start + self.prompt

    @property
    def end(self) -> int:
        return self.first_completion + sum(self.completions)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """B rows of together T tokens, and the N places in them where a completion's token is predicted."""

    token_ids: torch.Tensor
    """int64, shape (1, T)."""
    position_ids: torch.Tensor
    """int64, shape (1, T)."""
    spans: tuple[Span, ...]
    """Where each of the B rows lies."""
    audio_mask: torch.Tensor
    """bool, shape (1, T): the prompts' audio placeholders; never a token of a completion."""
    prompts: tuple[EncodedPrompt, ...]
    """Of the B rows: what the audio tower is given."""
    predictors: torch.Tensor
    """int64, shape (N,): index in T of the position whose hidden state predicts the token."""
    targets: torch.Tensor
    """int64, shape (N,): the tokens."""
    sequence_ids: torch.Tensor
    """int64, shape (N,): which of the caller's completions each token belongs to."""

    @property
    def tokens(self) -> int:
        return self.token_ids.shape[1]


def make_rows(
    prompts: Sequence[EncodedPrompt], completions: Sequence[Sequence[tuple[int, ...]]], *, shared: Sequence[bool] | bool
) -> list[Row]:
    """One row a group where `shared` (of the group, or of all), else one row a completion.

    Sequence ids count through all groups' completions. Empty completions stay: they have no token to predict, and
    their place in the count.
    """
    rows, first = [], 0
    sharing = [shared] * len(prompts) if isinstance(shared, bool) else shared
    for prompt, group, share in zip(prompts, completions, sharing, strict=True):
        ids = range(first, first + len(group))
        if share:
            rows.append(Row(prompt, tuple(group), tuple(ids)))
        else:
            rows.extend(Row(prompt, (c,), (i,)) for c, i in zip(group, ids, strict=True))
        first += len(group)
    return rows


def cut(rows: Sequence[Row], token_budget: int) -> list[list[Row]]:
    """Cut rows, longest first, into batches of at most `token_budget` tokens (at least one row each)."""
    batches: list[list[Row]] = []
    room = 0
    for row in sorted(rows, key=len, reverse=True):
        if batches and len(row) <= room:
            batches[-1].append(row)
            room -= len(row)
        else:
            batches.append([row])
            room = token_budget - len(row)
    return batches


def pack(rows: Sequence[Row], audio_token_id: int) -> MicroBatch:
    """Lay rows out one behind the other."""
    token_ids: list[int] = []
    position_ids: list[int] = []
    audio_mask: list[bool] = []
    spans: list[Span] = []
    predictors: list[int] = []
    targets: list[int] = []
    sequence_ids: list[int] = []
    for row in rows:
        prompt, p = row.prompt.token_ids, len(row.prompt.token_ids)
        span = Span(len(token_ids), p, tuple(len(c) for c in row.completions))
        token_ids.extend(prompt)
        position_ids.extend(range(p))
        audio_mask.extend(t == audio_token_id for t in prompt)
        for completion, sequence_id in zip(row.completions, row.sequence_ids, strict=True):
            at, c = len(token_ids), len(completion)
            token_ids.extend(completion)
            position_ids.extend(range(p, p + c))
            # The prompt's last token predicts the first token of every completion.
            predictors.extend([span.first_completion - 1, *range(at, at + c - 1)][:c])
            targets.extend(completion)
            sequence_ids.extend([sequence_id] * c)
        audio_mask.extend([False] * (span.end - span.first_completion))
        spans.append(span)
    return MicroBatch(
        torch.tensor([token_ids], dtype=torch.long),
        torch.tensor([position_ids], dtype=torch.long),
        tuple(spans),
        torch.tensor([audio_mask], dtype=torch.bool),
        tuple(row.prompt for row in rows),
        torch.tensor(predictors, dtype=torch.long),
        torch.tensor(targets, dtype=torch.long),
        torch.tensor(sequence_ids, dtype=torch.long),
    )
