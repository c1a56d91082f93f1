"""The blocks that are computed on the CPU, and flex-attention's mask, against one dense mask over everything."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from learner.attention import RowLayout, attend_rows
from learner.packing import EncodedPrompt, make_rows, pack

# Prompts and completions of odd lengths: short answers (attended to together), long ones (one by one), one, none.
GROUPS = ((37, (5, 3, 0, 7)), (11, (40, 41, 1)), (20, (6,)), (9, ()), (13, (0, 0)), (5, (1, 64, 2, 33)))


@pytest.fixture(scope="module")
def layout():
    prompts = [EncodedPrompt(tuple(range(10, 10 + p)), torch.zeros(1, 2), 2) for p, _ in GROUPS]
    rows = make_rows(prompts, [[(1,) * n for n in lengths] for _, lengths in GROUPS], shared=True)
    return RowLayout(pack(rows, audio_token_id=3).spans, torch.device("cpu"))


def heads(layout, count: int, seed: int) -> torch.Tensor:
    length = layout.spans[-1].end
    return torch.randn(1, count, length, 16, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.mark.parametrize("key_heads", [4, 2], ids=["as many", "grouped"])
def test_blocks_equal_one_dense_mask(layout, key_heads):
    q, k, v = heads(layout, 4, 0), heads(layout, key_heads, 1), heads(layout, key_heads, 2)
    ours, _ = attend_rows(None, q, k, v, None, row_layout=layout, scaling=0.25)
    dense = scaled_dot_product_attention(q, k, v, attn_mask=layout.dense_mask(), scale=0.25, enable_gqa=True)
    assert ours.shape == (1, layout.spans[-1].end, 4, 16)
    assert (ours - dense.transpose(1, 2)).abs().max() < 1e-5
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(3))
    got = torch.autograd.grad((ours * weight).sum(), (q, k, v))
    expected = torch.autograd.grad((dense.transpose(1, 2) * weight).sum(), (q, k, v))
    for one, other in zip(got, expected, strict=True):
        assert (one - other).norm() < 1e-5 * other.norm()


def test_flex_attention_sees_what_the_blocks_see(layout):
    """The kernel itself needs a GPU; its mask, and its function uncompiled, do not."""
    from torch.nn.attention.flex_attention import flex_attention

    with torch.no_grad():
        q, k, v = (heads(layout, 2, seed).detach() for seed in range(3))
        ours, _ = attend_rows(None, q, k, v, None, row_layout=layout, scaling=0.25)
        flex = flex_attention(q, k, v, block_mask=layout.block_mask(), scale=0.25)
    assert (ours - flex.transpose(1, 2)).abs().max() < 1e-5
