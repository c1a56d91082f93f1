"""Learner and rollout worker agree on every token's log-probability: the test that RL is on-policy.

Same weights, same audio; before and after an update that changed the audio tower, for a clip asked about before it,
at temperature 1 and 0.7.
"""

import asyncio

import numpy as np
import pytest
import soundfile

from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from learner.group import LearnerGroup
from learner.model import load_processor
from learner.phase import Phase
from learner.settings import LearnerSettings, OptimizerSettings
from protocol.rollout import Group, RolloutRequest, Sampling, WorkerSettings
from protocol.training import TrainingCompletion, TrainingGroup
from rollout_workers.pool import RolloutPool

TOLERANCE = 1e-4
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """Clips of several lengths: their prompts have different numbers of audio tokens."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(7)
    made = []
    for i, seconds in enumerate((0.4, 0.9, 1.37, 2.0)):
        path = folder / f"{i}.wav"
        soundfile.write(path, rng.standard_normal(int(seconds * 16_000)) * 0.2, 16_000)
        choices = ("flute", "violin", "harp", "clarinet")
        made.append(Question("clips", i, str(i), str(path), "Which instrument is playing?", choices, "harp"))
    return made


def training(groups: list[Group], advantages=(1.0, -1.0, 0.5, -0.5)) -> list[TrainingGroup]:
    return [
        TrainingGroup(
            g.question,
            g.template,
            g.prompt_token_ids,
            tuple(
                TrainingCompletion(c.token_ids, c.logprobs, a) for c, a in zip(g.completions, advantages, strict=True)
            ),
            g.weight_version,
        )
        for g in groups
    ]


def largest_gap(groups: list[Group], scored) -> float:
    sampled = [c.logprobs for g in groups for c in g.completions]
    return max(float(np.abs(np.array(a) - np.array(b)).max()) for a, b in zip(sampled, scored, strict=True))


async def rounds(pool, learner, folder, questions, temperature):
    """Gaps before and after two updates, the change of the policy between them, and all groups."""
    sampling = Sampling(group_size=4, max_tokens=10, temperature=temperature)
    optimizer = OptimizerSettings(learning_rate=3e-3, schedule="constant")
    await learner.begin(folder, Phase(optimizer, 3, temperature=temperature))
    await pool.update(await learner.publish(learner.weight_version))
    gaps, moved, all_groups, before = [], [], [], None
    for seed in range(3):
        requests = [RolloutRequest(q, PromptTemplate.ANSWER, seed=100 * seed + i) for i, q in enumerate(questions)]
        groups = await pool.generate(requests, sampling, by_rule=False)
        assert all(isinstance(g, Group) for g in groups), groups
        assert {g.weight_version for g in groups} == {learner.weight_version}
        batch = training(groups)
        gaps.append(largest_gap(groups, await learner.score(batch)))
        if before is not None:
            moved.append(largest_gap(before, await learner.score(training(before))))
        before = groups
        all_groups += groups
        learned = await learner.learn(batch, sequences=16)
        await pool.update(await learner.publish(learned.version))
    return gaps, moved, all_groups, await special_tokens(learner, all_groups[0])


async def play(folder, questions):
    """The rounds at both temperatures, on one worker and one rank."""
    pool = RolloutPool(WorkerSettings(model=folder, max_context=256, threads=1))
    learner = LearnerGroup(LearnerSettings(threads=1, beta=0, timeout_seconds=120))
    try:
        await asyncio.gather(pool.start(1), learner.start())
        return {temperature: await rounds(pool, learner, folder, questions, temperature) for temperature in (1.0, 0.7)}
    finally:
        await asyncio.gather(pool.stop(), learner.stop())


async def special_tokens(learner, group):
    """One step on a completion that holds what can never be sampled: audio and chat markers."""
    completions = tuple(
        TrainingCompletion(ids, (-1.0,) * len(ids), a) for ids, a in (((3, 10, 1, 5, 2), 1.0), ((10, 2), -1.0))
    )
    odd = TrainingGroup(group.question, group.template, group.prompt_token_ids, completions, 0)
    learned = await learner.learn([odd], sequences=2)
    return learned.metrics, await learner.score([odd])


@pytest.fixture(scope="module")
def both(cluster, tiny_folder, questions):
    return asyncio.run(play(str(tiny_folder), questions))


@pytest.fixture(params=[1.0, 0.7], ids=["temperature 1", "temperature 0.7"])
def played(request, both):
    return both[request.param]


def test_logprobs_agree_before_and_after_updates(played):
    gaps, _, _, _ = played
    assert max(gaps) < TOLERANCE, [f"{gap:.1e}" for gap in gaps]


def test_the_updates_were_large_enough_to_be_seen(played):
    """Old completions score differently by a thousand tolerances: stale weights or caches could not pass."""
    _, moved, _, _ = played
    assert min(moved) > 1000 * TOLERANCE, moved


def test_prompts_are_the_processors_for_every_length(played, tiny_folder):
    _, _, groups, _ = played
    processor = load_processor(str(tiny_folder))
    lengths = set()
    for group in groups:
        audio = sum(t == processor.audio_token_id for t in group.prompt_token_ids)
        samples = soundfile.info(group.question.audio).frames
        frames = samples // 160
        assert audio == ((frames - 1) // 2 + 1 - 2) // 2 + 1
        lengths.add(len(group.prompt_token_ids))
    assert len(lengths) == 4


def test_special_tokens_do_not_break_the_learner(played):
    metrics, scores = played[3]
    assert all(np.isfinite(value) for value in metrics.values()), metrics
    assert all(np.isfinite(s).all() for s in map(np.array, scores))
