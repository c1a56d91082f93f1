"""Rows of tokens: one prompt followed by any number of completions that do not attend to one another.

A row is `[prompt | c1 | … | cK]`. Positions restart after the prompt for every completion, and a completion attends to
the prompt and to itself: each token is computed as if its completion were the only one. K = 1 is the plain path; K = G
computes a group's prompt, and its audio, once instead of G times.

Rows are concatenated without padding, so the cost of a micro-batch depends only on its tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

PROMPT = 0


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A question as model inputs."""

    token_ids: tuple[int, ...]
    """P tokens, with audio placeholders expanded."""
    mel: torch.Tensor
    """Log-mel features, float32, shape (M, F): valid frames and a margin (see `learner.families.audio_tower`)."""
    valid_frames: int
    """Number of the F frames that belong to the clip."""
    clip: str = ""
    """Digest of the clip's content, the key of caches; not cached if empty."""


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt and K completions, with the index of each completion in the caller's order."""

    prompt: EncodedPrompt
    completions: tuple[tuple[int, ...], ...]
    sequence_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt.token_ids) + sum(len(c) for c in self.completions)


@dataclass(frozen=True, slots=True)
class Span:
    """The position of a row in its micro-batch."""

    start: int
    prompt: int
    """P, the number of tokens of the prompt."""
    completions: tuple[int, ...]
    """Number of tokens of each of the K completions."""

    @property
    def first_completion(self) -> int:
        return self.start + self.prompt

    @property
    def end(self) -> int:
        return self.first_completion + sum(self.completions)


@dataclass(frozen=True, slots=True)
class Calls:
    """Minimum number of calls of the modules that a micro-batch calls as often as its content needs.

    Under ZeRO-3 a call gathers a module's parameters on all ranks, so ranks whose contents differ agree on the numbers.
    """

    tower: int = 0
    """Passes of the audio tower, if it trains."""
    head: int = 0
    """Chunks of the head."""


AS_NEEDED = Calls()


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """B rows of T tokens in total, and the N positions that predict a token of a completion."""

    token_ids: torch.Tensor
    """int64, shape (1, T)."""
    position_ids: torch.Tensor
    """int64, shape (1, T)."""
    spans: tuple[Span, ...]
    """Position of each of the B rows."""
    audio_mask: torch.Tensor
    """Audio placeholders of the prompts, bool, shape (1, T); never a token of a completion."""
    prompts: tuple[EncodedPrompt, ...]
    """Prompts of the B rows: the input of the audio tower."""
    predictors: torch.Tensor
    """Index in T of the position whose hidden state predicts each token, int64, shape (N,)."""
    targets: torch.Tensor
    """Tokens to predict, int64, shape (N,)."""
    sequence_ids: torch.Tensor
    """Index of the caller's completion that each token belongs to, int64, shape (N,)."""
    calls: Calls

    @property
    def tokens(self) -> int:
        return self.token_ids.shape[1]


def make_rows(
    prompts: Sequence[EncodedPrompt], completions: Sequence[Sequence[tuple[int, ...]]], *, shared: Sequence[bool] | bool
) -> list[Row]:
    """Make one row per group if `shared` (for the group, or for all), else one row per completion.

    Sequence ids number the completions of all groups. An empty completion has an id, but no token to predict.
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


def split_rows(rows: Sequence[Row], token_budget: int) -> list[list[Row]]:
    """Split rows, longest first, into batches of at most `token_budget` tokens (at least one row each)."""
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


def pack(rows: Sequence[Row], audio_token_id: int, calls: Calls = AS_NEEDED) -> MicroBatch:
    """Concatenate rows into one micro-batch."""
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
        calls,
    )
