"""The audio tower and the head are called as often as asked for, with the same results."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.families.tiny import TINY, write_tiny

from audio_qa.prompt import PromptTemplate
from learner.families.audio_tower import divide_into_passes
from learner.families.family import Part
from learner.families.registry import family_of
from learner.model import head
from learner.model.loading import load_model, load_processor
from learner.model.packing import Calls, make_rows, pack
from learner.model.policy import Policy
from learner.model.prompts import PromptEncoder


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.integers(0, 10))
def test_every_clip_is_in_one_pass_with_clips_of_its_key(keys, at_least):
    passes = divide_into_passes(keys, at_least)
    assert sorted(i for indices in passes for i in indices) == list(range(len(keys)))
    assert all(len({keys[i] for i in indices}) == 1 for indices in passes)
    assert len(passes) == max(len(set(keys)), min(at_least, len(keys)))


@pytest.fixture(scope="module", params=TINY)
def policy(request, tmp_path_factory):
    folder = str(write_tiny(request.param, tmp_path_factory.mktemp("models")))
    family = family_of(folder)
    return Policy(family, load_model(family, folder, "float32").eval())


@pytest.fixture(scope="module")
def rows(policy, questions):
    """Rows of the four clips, the last one twice."""
    encoder = PromptEncoder(policy.family, load_processor(policy.model.config._name_or_path))
    prompts = [encoder.encode(question, PromptTemplate.ANSWER) for question in [*questions, questions[-1]]]
    answers = [[(20, 21, 22)], [(23,)], [()], [(24, 25)], [(26,)]]
    return make_rows(prompts, answers, shared=True)


def run(policy, rows, calls):
    """Return log-probabilities, gradients, and how often the modules of the tower, and the head, were called."""
    family, model = policy.family, policy.model
    tower = {n.rpartition(".")[0] for n, _ in model.named_parameters() if part_of(family, n) is Part.AUDIO_TOWER}
    counts, hooks = Counter(), []
    for module in [*map(model.get_submodule, sorted(tower)), family.head(model)]:
        hooks.append(module.register_forward_hook(lambda module, *_: counts.update([module])))
    policy.zero_grad()
    logprobs, _ = policy(pack(rows, family.audio_token_id(model), calls))
    for hook in hooks:
        hook.remove()
    logprobs.sum().backward()
    gradients = {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}
    head_calls = counts.pop(family.head(model))
    return logprobs.detach(), gradients, {counts[model.get_submodule(name)] for name in tower}, head_calls


def part_of(family, name: str) -> Part:
    return family.part(family.canonical_name(name))


@pytest.mark.parametrize(("more_passes", "chunks"), [(0, 1), (2, 1), (2, 3), (9, 12)])
def test_more_calls_change_nothing(policy, rows, more_passes, chunks):
    needed = policy.calls_needed(rows)
    expected, gradients, passes, head_calls = run(policy, rows, Calls())
    assert (passes, head_calls) == ({needed.tower}, needed.head)
    tower = needed.tower + more_passes
    found, found_gradients, passes, head_calls = run(policy, rows, Calls(tower, chunks))
    assert passes == {tower}, "every module of the tower is called once in each pass"
    assert head_calls == chunks
    assert torch.allclose(found, expected, atol=1e-5)
    norm = torch.sqrt(sum((g**2).sum() for g in gradients.values()))
    assert found_gradients.keys() == gradients.keys()
    assert all((found_gradients[n] - g).norm() < 1e-5 * norm for n, g in gradients.items())


def test_the_head_computes_as_many_tokens_as_fit(monkeypatch):
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", 100)
    assert [head.chunk_count(tokens, 25) for tokens in (0, 1, 4, 5, 8, 9)] == [1, 1, 1, 2, 2, 3]
