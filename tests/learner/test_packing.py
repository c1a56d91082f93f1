"""Rows, masks and cuts, without a model."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.packing import EncodedPrompt, cut, make_rows, pack
from learner.plan import share_out

AUDIO, PAD = 3, 0


def prompt(*tokens: int) -> EncodedPrompt:
    return EncodedPrompt(tokens, torch.zeros(4, 8), 8)


def test_a_row_by_hand():
    batch = pack(make_rows([prompt(7, AUDIO, 8)], [[(10, 11), (12,)]], shared=True), AUDIO, PAD)
    assert batch.token_ids.tolist() == [[7, 3, 8, 10, 11, 12]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 3]]
    assert batch.segments.tolist() == [[0, 0, 0, 1, 1, 2]]
    assert batch.audio_mask.tolist() == [[False, True, False, False, False, False]]
    # The prompt's last token predicts the first token of each completion.
    assert batch.predictors.tolist() == [2, 3, 2]
    assert batch.targets.tolist() == [10, 11, 12]
    assert batch.sequence_ids.tolist() == [0, 0, 1]
    assert batch.attention_mask()[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 0, 0, 1],
    ]


def test_an_audio_token_in_a_completion_is_no_audio():
    batch = pack(make_rows([prompt(7, AUDIO)], [[(AUDIO, 2)]], shared=True), AUDIO, PAD)
    assert batch.audio_mask.tolist() == [[False, True, False, False]]
    assert batch.targets.tolist() == [AUDIO, 2]


def test_padding_is_never_seen_but_by_itself():
    batch = pack(make_rows([prompt(7, 8), prompt(7)], [[(10,)], [(11,)]], shared=True), AUDIO, PAD)
    mask = batch.attention_mask()[1, 0]
    assert mask[2, 2]
    assert not mask[:2, 2].any()


def test_empty_completions_have_a_place_and_no_token():
    batch = pack(make_rows([prompt(7)], [[(), (9,)]], shared=True), AUDIO, PAD)
    assert batch.sequence_ids.tolist() == [1]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 200))
def test_cutting_keeps_every_row_and_the_budget(lengths, budget):
    rows = make_rows([prompt(*range(n)) for n in lengths], [[()] for _ in lengths], shared=True)
    batches = cut(rows, budget)
    assert sorted(row.sequence_ids for batch in batches for row in batch) == sorted(row.sequence_ids for row in rows)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(len(row) for row in batch) <= budget


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 5), st.integers(1, 200))
def test_sharing_out_counts_every_row_once_and_keeps_ranks_in_step(lengths, ranks, budget):
    rows = make_rows([prompt(*range(n)) for n in lengths], [[()] for _ in lengths], shared=True)
    plans = share_out(rows, ranks, budget)
    assert len({len(plan) for plan in plans}) == 1
    counted = [row.sequence_ids for plan in plans for batch in plan if batch.counts for row in batch.rows]
    assert sorted(counted) == sorted(row.sequence_ids for row in rows)
