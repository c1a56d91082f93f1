"""Rows, layouts and splits, without a model."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.model.attention import RowLayout, attends_jointly
from learner.model.flops import DecoderFlops
from learner.model.packing import EncodedPrompt, MicroBatch, make_rows, pack, split_rows
from learner.settings import SharePrefix
from learner.training.micro_batches import choose_sharing, distribute_rows

AUDIO = 3


def prompt(*tokens: int) -> EncodedPrompt:
    return EncodedPrompt(tokens, torch.zeros(4, 8), 8)


def layout(batch: MicroBatch) -> RowLayout:
    return RowLayout(batch.spans, torch.device("cpu"))


def test_a_row_by_hand():
    batch = pack(make_rows([prompt(7, AUDIO, 8)], [[(10, 11), (12,)]], shared=True), AUDIO)
    assert batch.token_ids.tolist() == [[7, 3, 8, 10, 11, 12]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 3]]
    assert batch.audio_mask.tolist() == [[False, True, False, False, False, False]]
    # The prompt's last token predicts the first token of each completion.
    assert batch.predictors.tolist() == [2, 3, 2]
    assert batch.targets.tolist() == [10, 11, 12]
    assert batch.sequence_ids.tolist() == [0, 0, 1]
    assert layout(batch).segments().tolist() == [0, 0, 0, 1, 1, 2]
    assert layout(batch).dense_mask().int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 0, 0, 1],
    ]


def test_rows_are_concatenated_and_do_not_attend_to_one_another():
    batch = pack(make_rows([prompt(7, 8), prompt(9)], [[(10,)], [(11,), (12, 13)]], shared=True), AUDIO)
    assert batch.token_ids.tolist() == [[7, 8, 10, 9, 11, 12, 13]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1, 1, 2]]
    assert batch.predictors.tolist() == [1, 3, 3, 5]
    mask = layout(batch).dense_mask()
    assert not mask[3:, :3].any()
    assert mask[5].int().tolist() == [0, 0, 0, 1, 0, 1, 0]


def test_an_audio_token_in_a_completion_is_not_audio():
    batch = pack(make_rows([prompt(7, AUDIO)], [[(AUDIO, 2)]], shared=True), AUDIO)
    assert batch.audio_mask.tolist() == [[False, True, False, False]]
    assert batch.targets.tolist() == [AUDIO, 2]


def test_empty_completions_have_an_id_and_no_token():
    batch = pack(make_rows([prompt(7)], [[(), (9,)]], shared=True), AUDIO)
    assert batch.sequence_ids.tolist() == [1]
    assert pack(make_rows([prompt(7)], [[(), ()]], shared=True), AUDIO).targets.tolist() == []


def test_a_short_prompt_with_long_answers_is_not_shared_where_attention_dominates():
    """Sharing saves the prompt's linear layers, and costs masked scores between completions."""
    cheap_layers, expensive_layers = DecoderFlops(per_token=1, per_pair=1), DecoderFlops(per_token=1e6, per_pair=1)
    long = [[tuple(range(100))] * 8]
    assert choose_sharing([prompt(1, 2)], long, SharePrefix.AUTO, cheap_layers) == [False]
    assert choose_sharing([prompt(1, 2)], long, SharePrefix.AUTO, expensive_layers) == [True]
    assert choose_sharing([prompt(1, 2)], long, SharePrefix.ALWAYS, cheap_layers) == [True]
    assert choose_sharing([prompt(1, 2)], long, SharePrefix.NEVER, expensive_layers) == [False]
    # Long prompts and short answers, as in audio questions, are always shared.
    assert choose_sharing([prompt(*range(600))], [[(1,) * 24] * 8], SharePrefix.AUTO, cheap_layers) == [True]


def test_short_answers_are_attended_jointly_and_long_ones_separately():
    assert attends_jointly(600, [24] * 8)
    assert not attends_jointly(600, [128] * 8)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 200))
def test_splitting_keeps_every_row_and_the_budget(lengths, budget):
    rows = make_rows([prompt(*range(n)) for n in lengths], [[()] for _ in lengths], shared=True)
    batches = split_rows(rows, budget)
    assert sorted(row.sequence_ids for batch in batches for row in batch) == sorted(row.sequence_ids for row in rows)
    for batch in batches:
        assert len(batch) == 1 or sum(len(row) for row in batch) <= budget


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 5), st.integers(1, 200))
def test_distribution_counts_every_row_once_and_keeps_ranks_in_step(lengths, ranks, budget):
    rows = make_rows([prompt(*range(n)) for n in lengths], [[()] for _ in lengths], shared=True)
    plans = distribute_rows(rows, ranks, budget)
    assert len({len(plan) for plan in plans}) == 1
    counted = [row.sequence_ids for plan in plans for batch in plan if batch.counts for row in batch.rows]
    assert sorted(counted) == sorted(row.sequence_ids for row in rows)
