"""The learner workload has the specified sizes, is reproducible, and runs on a real learner."""

import pytest
import soundfile
import torch
from safetensors.torch import load_file

from audio_qa.chat import banned_token_ids, stop_token_ids
from benchmarks.support.learner_workload import (
    Workload,
    audio_only,
    prepare_workload,
    read_parameters,
    running_learner,
    small_model,
    small_processor,
    special_token_ids,
)
from learner.schedule import Schedule
from learner.settings import LearnerSettings, OptimizerSettings

WORKLOAD = Workload(questions=2, group_size=3, clip_seconds=1.0, completion_tokens=5)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return prepare_workload(tmp_path_factory.mktemp("work"), WORKLOAD)


def test_a_workload_has_the_specified_sizes(work):
    processor = small_processor()
    assert len(work.groups) == len(work.prompts) == 2
    for group, rewards in zip(work.groups, work.rewards, strict=True):
        assert soundfile.info(group.question.audio).duration == 1.0
        assert group.prompt_token_ids.count(processor.audio_token_id) == 25
        assert [len(c.token_ids) for c in group.completions] == [5, 5, 5]
        assert not special_token_ids(processor) & {t for c in group.completions for t in c.token_ids}
        assert sorted(rewards) == [0, 1, 2]
        assert sum(c.advantage for c in group.completions) == pytest.approx(0)
    completions = [c.token_ids for g in work.groups for c in g.completions]
    assert len(set(completions)) == WORKLOAD.completions, "completions are identified by their tokens"


def test_a_workload_is_reproducible(work, tmp_path):
    again = prepare_workload(tmp_path, WORKLOAD)
    assert again.prompts == work.prompts
    assert again.rewards == work.rewards
    assert [g.completions for g in again.groups] == [g.completions for g in work.groups]
    ours, theirs = (load_file(w.model / "model.safetensors") for w in (work, again))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_learner_scores_with_the_whole_vocabulary(work):
    tokenizer = small_processor().tokenizer
    assert banned_token_ids(tokenizer, len(tokenizer), stop_token_ids(str(work.model), tokenizer)) == ()


def test_parameters_are_read_by_canonical_name(work, tmp_path):
    from safetensors.torch import save_file

    model = small_model(small_processor(), WORKLOAD.shape, WORKLOAD.seed)
    save_file({name: p.detach().clone() for name, p in model.named_parameters()}, tmp_path / "own-names.safetensors")
    written, own = (read_parameters(p) for p in (work.model / "model.safetensors", tmp_path / "own-names.safetensors"))
    assert written.keys() == own.keys()
    assert 0 < len(audio_only(own)) < len(own)


def test_a_learner_steps_on_it(work, alone):
    optimizer = OptimizerSettings(learning_rate=1e-3, schedule=Schedule.CONSTANT, adam_epsilon=1e-2)
    with running_learner(work, LearnerSettings(threads=1, beta=0.04, optimizer=optimizer)) as learner:
        before = learner.score()
        steps = [learner.step(), learner.step()]
        after = learner.score()
    assert [len(row) for row in before] == [5] * WORKLOAD.completions
    assert before != after
    assert steps[0].loss == pytest.approx(0, abs=1e-6), "no KL yet, and advantages cancel"
    assert steps[1].loss > 1e-6, "the KL to the reference"
    assert all(step.seconds > 0 and step.grad_norm > 0 for step in steps)
