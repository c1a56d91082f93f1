"""A phase's memory is free before the next phase loads its model, and unused memory goes back to the GPU."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from support.learner import counts_of

import learner.rank
from learner.training import engine


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_the_next_phase_starts_without_the_last_ones_model(make_rank, tiny_folder, groups, monkeypatch, zero_stage):
    rank = make_rank(zero_stage=zero_stage, beta=0.04)
    for _ in range(3):  # DeepSpeed plans ahead from the third step
        rank.learn(groups, counts_of(groups))
    kept = [rank._model, rank._trainer.reference, rank.engine.deepspeed, rank.engine.deepspeed.optimizer]
    references = [weakref.ref(one) for one in kept]
    del kept
    at_loading, load = [], learner.rank.load_model

    def watched(*arguments):
        gc.collect()
        at_loading.append([reference() is not None for reference in references])
        return load(*arguments)

    monkeypatch.setattr(learner.rank, "load_model", watched)
    rank.start_phase(str(tiny_folder), rank._trainer._phase)
    assert at_loading[0] == [False] * 4


def test_unused_memory_is_given_back(monkeypatch):
    done, reserved = [], iter([900, 300])
    stub = SimpleNamespace(
        is_available=lambda: True, memory_reserved=lambda: next(reserved), empty_cache=lambda: done.append("emptied")
    )
    monkeypatch.setattr(torch, "cuda", stub)
    monkeypatch.setattr(gc, "collect", lambda: done.append("collected"))
    assert engine.release_cached_memory() == 600
    assert done == ["collected", "emptied"]


def test_a_rank_without_a_gpu_has_nothing_to_give_back(make_rank):
    if torch.cuda.is_available():
        pytest.skip("it has a GPU")
    assert make_rank().give_memory_back() == 0
