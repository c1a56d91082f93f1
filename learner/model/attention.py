"""Attention over rows that lie one behind the other: a token sees its row's prompt and its own completion so far.

On the CPU each row's blocks are computed by themselves, so nothing is spent on tokens that cannot see one another. On a
GPU one flex-attention kernel goes over the whole micro-batch and skips the blocks that no token may see (Dong et al.,
2024, "Flex Attention"). Both are the same function of the same `RowLayout`, and `RowLayout.dense_mask` says which.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from learner.model.packing import PROMPT, Span

NAME = "earshot_rows"
"""The implementation's name, as transformers' configurations take it."""

_BLOCK = 128
"""Tokens of a block of flex-attention, whose kernel skips whole blocks only."""

_WASTE = 1.5
"""How many times the scores that are needed may be computed, before completions are attended to one by one."""


def attended_together(prompt: int, completions: Sequence[int]) -> bool:
    """Whether a row's completions are attended to in one call, which also computes what they must not see of others."""
    count = sum(completions)
    return count * (prompt + count) <= _WASTE * sum(n * (prompt + n) for n in completions)


@dataclass(slots=True)
class RowLayout:
    """Who sees whom in a micro-batch of T tokens."""

    spans: Sequence[Span]
    device: torch.device
    _masks: dict[int, torch.Tensor] = field(default_factory=dict)
    _block_mask: Any = None

    def row_ids(self) -> torch.Tensor:
        """int64, shape (T,): the row of each token."""
        lengths = torch.tensor([span.end - span.start for span in self.spans])
        return torch.repeat_interleave(torch.arange(len(self.spans)), lengths).to(self.device)

    def segments(self) -> torch.Tensor:
        """int64, shape (T,): 0 in a prompt, k in the k-th completion of its row."""
        counts = [n for span in self.spans for n in (span.prompt, *span.completions)]
        values = [k for span in self.spans for k in range(PROMPT, len(span.completions) + 1)]
        return torch.repeat_interleave(torch.tensor(values), torch.tensor(counts)).to(self.device)

    def sees(self) -> Callable[..., torch.Tensor]:
        """flex-attention's `mask_mod`: whether query token `q` may look at key token `k`."""
        rows, segments = self.row_ids(), self.segments()

        def mask_mod(batch: Any, head: Any, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
            same = (segments[k] == PROMPT) | (segments[k] == segments[q])
            return (q >= k) & (rows[q] == rows[k]) & same

        return mask_mod

    def dense_mask(self) -> torch.Tensor:
        """bool, shape (T, T): query may look at key. For tests and for reading; nothing computes with it."""
        places = torch.arange(self.spans[-1].end, device=self.device)
        return self.sees()(0, 0, places[:, None], places[None, :])

    def completions_mask(self, row: int) -> torch.Tensor:
        """bool, shape (C, P + C): what the C completion tokens of a row may look at within it."""
        if row not in self._masks:
            span = self.spans[row]
            c = span.end - span.first_completion
            lengths = torch.tensor(span.completions, dtype=torch.long)
            segments = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
            own = torch.ones(c, c, dtype=torch.bool).tril() & (segments[:, None] == segments[None, :])
            mask = torch.cat([torch.ones(c, span.prompt, dtype=torch.bool), own], dim=1)
            self._masks[row] = mask.to(self.device)
        return self._masks[row]

    def seen_blocks(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Which blocks of `size` query tokens see some token of which blocks of keys, and which see all of them.

        Both bool, shape (B, B) for B blocks. A last block that is not full sees all of none, and nobody sees all of it.
        """
        length = self.spans[-1].end
        count = -(-length // size)
        some = torch.zeros(count, count, dtype=torch.bool)
        whole = torch.zeros_like(some)

        def mark(queries: tuple[int, int], keys: tuple[int, int]) -> None:
            """Every query token of the one stretch sees every key token of the other that is not behind it."""
            (q, q_end), (k, k_end) = queries, keys
            if q < q_end and k < k_end:
                some[q // size : -(-q_end // size), k // size : -(-k_end // size)] = True
                whole[-(-q // size) : q_end // size, -(-k // size) : k_end // size] = True

        for span in self.spans:
            prompt = (span.start, span.first_completion)
            mark(prompt, prompt)
            at = span.first_completion
            for tokens in span.completions:
                own = (at, at + tokens)
                mark(own, own)
                mark(own, prompt)
                at += tokens
        return some.tril(), whole.tril(-1)

    def arguments(self) -> dict[str, Any]:
        """What a decoder is called with: the layout, or on a GPU what the kernel and compiled layers take of it."""
        return {"block_mask": self.block_mask()} if self.device.type == "cuda" else {"row_layout": self}

    def block_mask(self) -> Any:
        """flex-attention's sparse mask, made once for all layers, and not from a mask of T x T tokens."""
        if self._block_mask is None:
            from torch.nn.attention.flex_attention import BlockMask  # noqa: PLC0415

            length = self.spans[-1].end
            some, whole = self.seen_blocks(_BLOCK)
            (partly, partly_which), (wholly, wholly_which) = (
                _listed(b.to(self.device)) for b in (some & ~whole, whole)
            )
            self._block_mask = BlockMask.from_kv_blocks(
                partly,
                partly_which,
                wholly,
                wholly_which,
                BLOCK_SIZE=_BLOCK,
                mask_mod=self.sees(),
                seq_lengths=(length, length),
            )
        return self._block_mask


def attend_rows(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    scaling: float,
    row_layout: RowLayout | None = None,
    block_mask: Any = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """The attention that transformers' decoder layers call.

    Args:
        query: shape (1, H, T, D); key and value have as many heads or a divisor of them.
        row_layout, block_mask: one of `arguments`, passed to the decoder, which hands it on.

    Returns:
        Shape (1, T, H, D), and no weights.
    """
    if block_mask is not None:
        out = _flex()(
            query,
            key,
            value,
            block_mask=block_mask,
            scale=scaling,
            enable_gqa=True,
            # Left to choose, it takes its kernel for decoding below 128 tokens, which grouped heads may not have.
            kernel_options={"BACKEND": "TRITON"},
        )
        return out.transpose(1, 2), None
    assert row_layout is not None
    return attend_in_blocks(query, key, value, row_layout, scaling), None


def attend_in_blocks(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, row_layout: RowLayout, scaling: float
) -> torch.Tensor:
    """`attend_rows` block by block: on the CPU the fast way, on a GPU what its kernel is compared with."""
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    # Split, not sliced: the gradient of a slice is as large as what it was taken from, for every row.
    lengths = [span.end - span.start for span in row_layout.spans]
    parts = []
    for i, (q, k, v) in enumerate(zip(*(torch.split(x, lengths, dim=2) for x in (query, key, value)), strict=True)):
        span = row_layout.spans[i]
        if len(span.completions) == 1:
            # A single completion goes on where the prompt ends: one causal block.
            parts.append(scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling))
        else:
            parts.extend(_shared_prefix(q, k, v, span, row_layout.completions_mask(i), scaling))
    return torch.cat(parts, dim=2).transpose(1, 2)


def _shared_prefix(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, span: Span, mask: torch.Tensor, scaling: float
) -> list[torch.Tensor]:
    """A row with several completions: the prompt by itself, then the completions, together or one by one."""
    p, c = span.prompt, span.end - span.first_completion
    (q_prompt, q_rest), (k_prompt, k_rest), (v_prompt, v_rest) = (torch.split(x, [p, c], dim=2) for x in (q, k, v))
    outs = [scaled_dot_product_attention(q_prompt, k_prompt, v_prompt, is_causal=True, scale=scaling)]
    if c == 0:
        return outs
    if attended_together(p, span.completions):
        return [*outs, scaled_dot_product_attention(q_rest, k, v, attn_mask=mask, scale=scaling)]
    pieces = zip(*(torch.split(x, list(span.completions), dim=2) for x in (q_rest, k_rest, v_rest)), strict=True)
    at = 0
    for own_q, own_k, own_v in pieces:
        n = own_q.shape[2]
        if n:
            keys, values = torch.cat([k_prompt, own_k], dim=2), torch.cat([v_prompt, own_v], dim=2)
            sees = torch.cat([mask[at : at + n, :p], mask[at : at + n, p + at : p + at + n]], dim=1)
            outs.append(scaled_dot_product_attention(own_q, keys, values, attn_mask=sees, scale=scaling))
        at += n
    return outs


def _listed(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How many blocks of keys each block of queries has, shape (1, 1, B), and which, those first, (1, 1, B, B)."""
    which = blocks.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1).to(torch.int32)[None, None], which.to(torch.int32)[None, None]


def _flex() -> Callable[..., torch.Tensor]:
    """The kernel, which has to be compiled: otherwise flex-attention computes every score."""
    from torch.nn.attention.flex_attention import flex_attention  # noqa: PLC0415

    if torch.compiler.is_compiling():
        # It becomes a part of the layer that is being compiled.
        kernel: Callable[..., torch.Tensor] = flex_attention
        return kernel
    return _compiled_by_itself()


@cache
def _compiled_by_itself() -> Callable[..., torch.Tensor]:
    from torch.nn.attention.flex_attention import flex_attention  # noqa: PLC0415

    compiled: Callable[..., torch.Tensor] = torch.compile(flex_attention, dynamic=True)
    return compiled


AttentionInterface.register(NAME, attend_rows)
