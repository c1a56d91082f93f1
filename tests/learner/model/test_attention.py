"""Row attention, in blocks on the CPU and by the kernel on a GPU, against a dense mask in float64."""

import random

import pytest
import torch
from support.devices import needs_gpu, relative
from torch._dynamo.utils import counters
from torch.nn.functional import scaled_dot_product_attention

from learner.model.attention import RowLayout, attend_in_blocks, attend_rows
from learner.model.packing import EncodedPrompt, make_rows, pack

# Prompts and completions of odd lengths: short answers (attended jointly), long ones (one by one), one, none.
GROUPS = ((37, (5, 3, 0, 7)), (11, (40, 41, 1)), (20, (6,)), (9, ()), (13, (0, 0)), (5, (1, 64, 2, 33)))
SHORT = ((30, (7, 5, 8)), (21, (9,)))
LONG = ((513, (24, 31, 17, 40, 1)), (130, (128, 90)))
BATCHES = (LONG, GROUPS, SHORT)
"""Consecutive calls: the kernel is compiled for the first, and for those within one block of 128 tokens."""
CASES = [
    (torch.float32, 4, 4, 16, 1e-5),
    (torch.float32, 8, 2, 128, 1e-5),
    (torch.bfloat16, 4, 2, 32, 2e-2),
    (torch.bfloat16, 8, 8, 128, 2e-2),
]
"""Type, number of query and key heads, size of a head, maximum relative error."""


def layout_of(groups, device: str = "cpu") -> RowLayout:
    prompts = [EncodedPrompt(tuple(range(10, 10 + p)), torch.zeros(1, 2), 2) for p, _ in groups]
    rows = make_rows(prompts, [[(1,) * n for n in lengths] for _, lengths in groups], shared=True)
    return RowLayout(pack(rows, audio_token_id=3).spans, torch.device(device))


def heads(layout: RowLayout, count: int, size: int, seed: int, dtype=torch.float32) -> torch.Tensor:
    """Return random values, shape (1, H, T, D)."""
    shape = (1, count, layout.spans[-1].end, size)
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(layout.device, dtype)
    return values.requires_grad_()


def with_gradients(out: torch.Tensor, inputs) -> list[torch.Tensor]:
    """Return an output of shape (1, T, H, D), and its gradients with respect to queries, keys and values."""
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(3)).to(out)
    return [out, *torch.autograd.grad((out * weight).sum(), inputs)]


@pytest.fixture(autouse=True)
def without_earlier_compilations():
    """Discard the compilations of other tests."""
    torch._dynamo.reset()
    counters.clear()


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case[0]}-{case[1]}-{case[2]}-{case[3]}".removeprefix("torch.")
)
def test_attention_is_that_of_one_dense_mask(device, case):
    dtype, count, key_count, size, bound = case
    for groups in BATCHES:
        layout = layout_of(groups, device)
        q, k, v = (heads(layout, n, size, seed, dtype) for seed, n in enumerate((count, key_count, key_count)))
        out, _ = attend_rows(None, q, k, v, None, **layout.arguments(), scaling=0.25)
        assert out.shape == (1, layout.spans[-1].end, count, size)
        found = with_gradients(out, (q, k, v))
        exact_inputs = [x.detach().cpu().double().requires_grad_() for x in (q, k, v)]
        mask = layout_of(groups).dense_mask()
        dense = scaled_dot_product_attention(*exact_inputs, attn_mask=mask, scale=0.25, enable_gqa=True)
        # The weight is rounded like the output, so that both use the same one.
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(3)).to(dtype).double()
        exact = [dense.transpose(1, 2), *torch.autograd.grad((dense.transpose(1, 2) * weight).sum(), exact_inputs)]
        errors = [relative(one, other) for one, other in zip(found, exact, strict=True)]
        names = ("out", "dq", "dk", "dv")
        print(f"{device} {dtype} {out.shape[1]} tokens:", *(f"{n} {e:.1e}" for n, e in zip(names, errors, strict=True)))
        assert max(errors) < bound


@pytest.mark.parametrize("groups", [*BATCHES, ((128, (128, 256)), (256, ())), ((300, (1, 400, 3)), (7, (500, 20)))])
def test_block_masks_are_correct_without_a_mask_of_tokens(groups):
    layout = layout_of(groups)
    some, whole = layout.visible_blocks(32)
    short = -layout.spans[-1].end % 32
    tokens = torch.nn.functional.pad(layout.dense_mask(), (0, short, 0, short))
    blocks = tokens.unflatten(1, (-1, 32)).unflatten(0, (-1, 32)).transpose(1, 2).flatten(2)
    assert torch.equal(some, blocks.any(-1))
    assert not (whole & ~blocks.all(-1)).any()
    if short == 0:
        assert torch.equal(layout.block_mask().to_dense()[0, 0].bool(), layout.visible_blocks(128)[0])
    # Blocks that only several ranges together make fully visible are missed: few, or the kernel would check each token.
    assert whole.sum() >= 0.7 * blocks.all(-1).sum()


@needs_gpu
def test_new_lengths_do_not_recompile():
    """There are at most four kernels: with and without a gradient, for batches up to and above one block of 128."""
    rng = random.Random(0)
    tokens = []
    for call in range(32):
        most = 20 if call % 4 == 3 else 400
        lengths = [(rng.randint(10, most), [rng.randint(0, most // 4) for _ in range(rng.randint(1, 5))])]
        layout = layout_of(lengths * (1 if most == 20 else rng.randint(1, 4)), "cuda")
        q, k, v = (heads(layout, n, 32, seed, torch.bfloat16) for seed, n in enumerate((4, 2, 2)))
        with torch.set_grad_enabled(call % 2 == 0):
            out, _ = attend_rows(None, q, k, v, None, **layout.arguments(), scaling=0.25)
        if call % 2 == 0:
            out.sum().backward()
        tokens.append(out.shape[1])
    compiled = counters["stats"]["unique_graphs"]
    print(f"{len(set(tokens))} lengths from {min(tokens)} to {max(tokens)} tokens, {compiled} compilations")
    assert compiled <= 4


@needs_gpu
def test_a_full_micro_batch_has_the_attention_of_blocks():
    """A micro-batch of the default size in bfloat16 is compared with float32 block by block."""
    layout = layout_of([(1000 + i, (100, 131, 64, 90)) for i in range(11)] + [(500, (101,))], "cuda")
    q, k, v = (heads(layout, n, 128, seed, torch.bfloat16) for seed, n in enumerate((4, 2, 2)))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    layout.block_mask()
    peak = (torch.cuda.max_memory_allocated() - before) / 2**30
    out, _ = attend_rows(None, q, k, v, None, **layout.arguments(), scaling=0.1)
    found = with_gradients(out, (q, k, v))
    exact_inputs = [x.detach().float().requires_grad_() for x in (q, k, v)]
    exact = with_gradients(attend_in_blocks(*exact_inputs, layout, 0.1), exact_inputs)
    errors = [relative(one, other) for one, other in zip(found, exact, strict=True)]
    print(f"{out.shape[1]} tokens:", *(f"{e:.1e}" for e in errors), f"; the mask took {peak:.4f} GiB")
    assert max(errors) < 2e-2
    # A mask of T x T tokens takes 0.24 GiB, and building it took 2.38 GiB.
    assert peak < 0.01


def test_flex_attention_equals_attention_in_blocks():
    """The kernel itself needs a GPU; its mask and the uncompiled function do not."""
    from torch.nn.attention.flex_attention import flex_attention

    layout = layout_of(GROUPS)
    with torch.no_grad():
        q, k, v = (heads(layout, 2, 16, seed).detach() for seed in range(3))
        ours, _ = attend_rows(None, q, k, v, None, **layout.arguments(), scaling=0.25)
        flex = flex_attention(q, k, v, block_mask=layout.block_mask(), scale=0.25)
    assert (ours - flex.transpose(1, 2)).abs().max() < 1e-5
