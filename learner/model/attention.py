"""Attention over packed rows: a token attends to its row's prompt and to its own completion so far.

On the CPU each row's blocks are computed separately, so no time goes into pairs of tokens that must not attend to each
other. On a GPU one flex-attention kernel processes the whole micro-batch and skips fully masked blocks (Dong et al.,
2024, "Flex Attention", arXiv:2412.05496). Both compute the same function of the same `RowLayout`, which
`RowLayout.dense_mask` defines.
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
"""Name of the implementation in transformers' configurations."""

_BLOCK = 128
"""Tokens per block of flex-attention, whose kernel skips whole blocks only."""

_MAX_OVERHEAD = 1.5
"""Maximum ratio of computed to needed scores, before each completion gets an attention call of its own."""


def attends_jointly(prompt: int, completions: Sequence[int]) -> bool:
    """Return whether one call attends for all completions of a row, including masked scores between completions."""
    count = sum(completions)
    return count * (prompt + count) <= _MAX_OVERHEAD * sum(n * (prompt + n) for n in completions)


@dataclass(slots=True)
class RowLayout:
    """The attention pattern of a micro-batch of T tokens."""

    spans: Sequence[Span]
    device: torch.device
    _masks: dict[int, torch.Tensor] = field(default_factory=dict)
    _block_mask: Any = None

    def row_ids(self) -> torch.Tensor:
        """Return the row of each token, int64, shape (T,)."""
        lengths = torch.tensor([span.end - span.start for span in self.spans])
        return torch.repeat_interleave(torch.arange(len(self.spans)), lengths).to(self.device)

    def segments(self) -> torch.Tensor:
        """Return 0 for tokens of a prompt and k for tokens of the k-th completion of a row, int64, shape (T,)."""
        counts = [n for span in self.spans for n in (span.prompt, *span.completions)]
        values = [k for span in self.spans for k in range(PROMPT, len(span.completions) + 1)]
        return torch.repeat_interleave(torch.tensor(values), torch.tensor(counts)).to(self.device)

    def mask_mod(self) -> Callable[..., torch.Tensor]:
        """Return flex-attention's `mask_mod`: whether query token `q` may attend to key token `k`."""
        rows, segments = self.row_ids(), self.segments()

        def mask_mod(batch: Any, head: Any, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
            same = (segments[k] == PROMPT) | (segments[k] == segments[q])
            return (q >= k) & (rows[q] == rows[k]) & same

        return mask_mod

    def dense_mask(self) -> torch.Tensor:
        """Return the mask of keys that each query attends to, bool, shape (T, T). Used by tests only."""
        index = torch.arange(self.spans[-1].end, device=self.device)
        return self.mask_mod()(0, 0, index[:, None], index[None, :])

    def completions_mask(self, row: int) -> torch.Tensor:
        """Return the mask of the C completion tokens of a row over the row's keys, bool, shape (C, P + C)."""
        if row not in self._masks:
            span = self.spans[row]
            c = span.end - span.first_completion
            lengths = torch.tensor(span.completions, dtype=torch.long)
            segments = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
            own = torch.ones(c, c, dtype=torch.bool).tril() & (segments[:, None] == segments[None, :])
            mask = torch.cat([torch.ones(c, span.prompt, dtype=torch.bool), own], dim=1)
            self._masks[row] = mask.to(self.device)
        return self._masks[row]

    def visible_blocks(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return which blocks of `size` query tokens attend to some, and to all, tokens of which blocks of keys.

        Both are bool, shape (B, B) for B blocks. An incomplete last block counts as fully visible neither as query nor
        as key.
        """
        length = self.spans[-1].end
        count = -(-length // size)
        some = torch.zeros(count, count, dtype=torch.bool)
        whole = torch.zeros_like(some)

        def mark(queries: tuple[int, int], keys: tuple[int, int]) -> None:
            """Mark that every query token of one range attends to every key token of the other up to itself."""
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
        """Return the decoder's keyword arguments: the layout, or on a GPU the block mask of the kernel."""
        return {"block_mask": self.block_mask()} if self.device.type == "cuda" else {"row_layout": self}

    def block_mask(self) -> Any:
        """Return flex-attention's sparse mask, built once for all layers and without a T x T mask of tokens."""
        if self._block_mask is None:
            from torch.nn.attention.flex_attention import BlockMask  # noqa: PLC0415

            length = self.spans[-1].end
            some, whole = self.visible_blocks(_BLOCK)
            (partial_count, partial_index), (full_count, full_index) = (
                _block_indices(b.to(self.device)) for b in (some & ~whole, whole)
            )
            self._block_mask = BlockMask.from_kv_blocks(
                partial_count,
                partial_index,
                full_count,
                full_index,
                BLOCK_SIZE=_BLOCK,
                mask_mod=self.mask_mod(),
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
    """Compute the attention of one of transformers' decoder layers.

    Args:
        query: shape (1, H, T, D); the number of heads of key and value divides H.
        row_layout, block_mask: one of them, from `RowLayout.arguments`, passed through by the decoder.

    Returns:
        The output, shape (1, T, H, D), and None in place of the attention weights.
    """
    if block_mask is not None:
        out = _flex_kernel()(
            query,
            key,
            value,
            block_mask=block_mask,
            scale=scaling,
            enable_gqa=True,
            # By default it uses its decoding kernel below 128 tokens, which does not support all grouped heads.
            kernel_options={"BACKEND": "TRITON"},
        )
        return out.transpose(1, 2), None
    assert row_layout is not None
    return attend_in_blocks(query, key, value, row_layout, scaling), None


def attend_in_blocks(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, row_layout: RowLayout, scaling: float
) -> torch.Tensor:
    """Compute `attend_rows` block by block: the fast path on the CPU, and the baseline of tests on a GPU."""
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    # Split, not sliced: the gradient of a slice is as large as the tensor it was taken from, for every row.
    lengths = [span.end - span.start for span in row_layout.spans]
    parts = []
    for i, (q, k, v) in enumerate(zip(*(torch.split(x, lengths, dim=2) for x in (query, key, value)), strict=True)):
        span = row_layout.spans[i]
        if len(span.completions) == 1:
            # A single completion continues the prompt: one causal block.
            parts.append(scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling))
        else:
            parts.extend(_shared_prefix(q, k, v, span, row_layout.completions_mask(i), scaling))
    return torch.cat(parts, dim=2).transpose(1, 2)


def _shared_prefix(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, span: Span, mask: torch.Tensor, scaling: float
) -> list[torch.Tensor]:
    """Attend for a row with several completions: the prompt first, then the completions, jointly or one by one."""
    p, c = span.prompt, span.end - span.first_completion
    (q_prompt, q_rest), (k_prompt, k_rest), (v_prompt, v_rest) = (torch.split(x, [p, c], dim=2) for x in (q, k, v))
    outs = [scaled_dot_product_attention(q_prompt, k_prompt, v_prompt, is_causal=True, scale=scaling)]
    if c == 0:
        return outs
    if attends_jointly(p, span.completions):
        return [*outs, scaled_dot_product_attention(q_rest, k, v, attn_mask=mask, scale=scaling)]
    pieces = zip(*(torch.split(x, list(span.completions), dim=2) for x in (q_rest, k_rest, v_rest)), strict=True)
    at = 0
    for own_q, own_k, own_v in pieces:
        n = own_q.shape[2]
        if n:
            keys, values = torch.cat([k_prompt, own_k], dim=2), torch.cat([v_prompt, own_v], dim=2)
            own_mask = torch.cat([mask[at : at + n, :p], mask[at : at + n, p + at : p + at + n]], dim=1)
            outs.append(scaled_dot_product_attention(own_q, keys, values, attn_mask=own_mask, scale=scaling))
        at += n
    return outs


def _block_indices(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the number of key blocks per query block, (1, 1, B), and their indices, those first, (1, 1, B, B)."""
    index = blocks.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1).to(torch.int32)[None, None], index.to(torch.int32)[None, None]


def _flex_kernel() -> Callable[..., torch.Tensor]:
    """Return the compiled kernel: uncompiled, flex-attention computes every score."""
    from torch.nn.attention.flex_attention import flex_attention  # noqa: PLC0415

    if torch.compiler.is_compiling():
        # It becomes part of the layer that is being compiled.
        kernel: Callable[..., torch.Tensor] = flex_attention
        return kernel
    return _compiled_flex_attention()


@cache
def _compiled_flex_attention() -> Callable[..., torch.Tensor]:
    from torch.nn.attention.flex_attention import flex_attention  # noqa: PLC0415

    compiled: Callable[..., torch.Tensor] = torch.compile(flex_attention, dynamic=True)
    return compiled


AttentionInterface.register(NAME, attend_rows)
