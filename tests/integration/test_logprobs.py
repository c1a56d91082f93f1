"""Learner and rollout worker agree on every token's log-probability: the test that RL is on-policy, for every family.

Same weights, same audio; before and after updates that changed the audio tower, for a clip asked about before them, at
temperature 1 and 0.7. One engine a family.
"""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import ray
import soundfile
import torch
from support.families.tiny import TINY, write_tiny

from audio_qa.chat import banned_token_ids, stop_token_ids
from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from learner.checkpoint.export import write_checkpoint
from learner.families.registry import family_of
from learner.group import LearnerGroup
from learner.messages import BatchCounts, PhaseSettings
from learner.model.loading import load_processor
from learner.model.weights import weights_of
from learner.settings import LearnerSettings, OptimizerSettings
from protocol.rollout import Group, RolloutRequest, Sampling, WorkerSettings
from protocol.training import TrainingCompletion, TrainingGroup
from protocol.weights import Bucket, Carrier, TensorSlot, WeightUpdate
from rollout_workers.pool.pool import RolloutPool
from rollout_workers.weight_sync.shared_memory import SharedMemorySync

TOLERANCE = 1e-4
CARRIERS = {1.0: Carrier.SHARED_MEMORY, 0.7: Carrier.OBJECT_STORE}
"""The carrier used at each temperature."""
TEMPERATURES = tuple(CARRIERS)
pytestmark = pytest.mark.timeout(300)

MOVED = (
    *("layers.0.self_attn.q_proj.weight", "layers.1.mlp.up_proj.weight", "layers.0.self_attn_layer_norm.bias"),
    *("layers.1.mlp.experts.2.gate_proj.weight", "layers.1.mlp.experts.5.down_proj.weight"),
    *("layers.0.attn.to_kv.weight", "layers.1.conv.batch_norm.bias", "layer.0.crossattention.attention.key.weight"),
)
"""Endings of the names of a few weights, of audio tower and language model, most in a layer that vLLM fuses."""


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


def moved_a_little(folder: str, other: str) -> WeightUpdate:
    """Write the checkpoint with a few parameters changed to `other`; the update that brings these alone."""
    family = family_of(folder)
    model, _ = family.load(folder, torch.float32)
    slots: list[TensorSlot] = []
    values = []
    with torch.no_grad():
        for weight in weights_of(family, model):
            if weight.name.endswith(MOVED) and "visual" not in weight.name:
                value = weight.value()
                value += torch.randn(value.shape, generator=torch.Generator().manual_seed(0)) * 0.3
                slots.append(TensorSlot(weight.name, "float32", tuple(value.shape), value.nbytes))
                values.append(value.numpy().reshape(-1).view(np.uint8))
    write_checkpoint(Path(other), family, model, load_processor(folder))
    nbytes = sum(slot.nbytes for slot in slots)
    return WeightUpdate(1, (Bucket(tuple(slots), ray.put(values)),), audio_changed=True, nbytes=nbytes)


@dataclass
class Played:
    """The results at one temperature."""

    gaps: list[float] = field(default_factory=list)
    """Largest differences between the engine's and the learner's log-probabilities, before and after each update."""
    moved: list[float] = field(default_factory=list)
    """Largest change of the log-probabilities of earlier samples by an update."""
    groups: list[Group] = field(default_factory=list)
    odd_metrics: dict[str, float] = field(default_factory=dict)
    odd_scores: list[tuple[float, ...]] = field(default_factory=list)


def requests(questions: list[Question], seed: int) -> list[RolloutRequest]:
    return [RolloutRequest(q, PromptTemplate.ANSWER, seed=100 * seed + i) for i, q in enumerate(questions)]


async def rounds(pool, learner, folder, questions, temperature, carrier) -> Played:
    """Apply three updates, each on what was sampled before it."""
    sampling = Sampling(group_size=4, max_tokens=10, temperature=temperature)
    optimizer = OptimizerSettings(learning_rate=3e-3, schedule="constant")
    await learner.start_phase(folder, PhaseSettings(optimizer, 3, temperature=temperature, max_tokens=10))
    await pool.update(await learner.publish(carrier))
    played, before = Played(), None
    for seed in range(3):
        groups = await pool.generate(requests(questions, seed), sampling)
        assert all(isinstance(g, Group) for g in groups), groups
        assert {g.weight_version for g in groups} == {learner.weight_version}
        batch = training(groups)
        played.gaps.append(largest_gap(groups, await learner.score(batch)))
        if before is not None:
            played.moved.append(largest_gap(before, await learner.score(training(before))))
        before = groups
        played.groups += groups
        await learner.learn(batch, BatchCounts(16, sum(len(c.token_ids) for g in batch for c in g.completions)))
        await pool.update(await learner.publish(carrier))
    await special_tokens(learner, played, folder)
    return played


async def special_tokens(learner, played: Played, folder: str) -> None:
    """Take a step on a completion that holds tokens that can never be sampled: audio and chat markers."""
    processor, group = load_processor(folder), played.groups[0]
    special = processor.tokenizer.convert_tokens_to_ids([processor.audio_token, "<|im_start|>"])
    completions = tuple(
        TrainingCompletion(ids, (-1.0,) * len(ids), a) for ids, a in (((10, *special, 11), 1.0), ((10, 12), -1.0))
    )
    odd = TrainingGroup(group.question, group.template, group.prompt_token_ids, completions, 0)
    played.odd_metrics = (await learner.learn([odd], BatchCounts(2, 6))).metrics
    played.odd_scores = await learner.score([odd])


async def agree(pool, learner, folder, questions, played: Played) -> list[Group]:
    """Score with the engine and with a learner of the checkpoint in `folder`."""
    await learner.start_phase(folder, PhaseSettings(OptimizerSettings(), 1))
    groups = await pool.generate(requests(questions, 9), Sampling(group_size=4, max_tokens=10))
    played.gaps.append(largest_gap(groups, await learner.score(training(groups))))
    return groups


async def play(folder: str, other: str, questions) -> tuple[Played, dict[float, Played]]:
    """Apply a small external update, then the rounds at all temperatures, on one worker and one rank."""
    pool = RolloutPool(WorkerSettings(model=folder, max_context=256, threads=1))
    learner = LearnerGroup(LearnerSettings(threads=1, beta=0, timeout_seconds=120))
    pool.use_weight_sync(SharedMemorySync(learner))
    first = Played()
    try:
        await asyncio.gather(pool.start(1), learner.start())
        before = await agree(pool, learner, folder, questions, first)
        await pool.update(await asyncio.to_thread(moved_a_little, folder, other))
        await agree(pool, learner, other, questions, first)
        first.moved.append(largest_gap(before, await learner.score(training(before))))
        return first, {t: await rounds(pool, learner, other, questions, t, c) for t, c in CARRIERS.items()}
    finally:
        await asyncio.gather(pool.stop(), learner.stop())


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[] if name == "qwen2_audio" else [pytest.mark.slow]) for name in TINY],
)
def both(request, cluster, tmp_path_factory, questions):
    home = tmp_path_factory.mktemp("models")
    folder = write_tiny(request.param, home / request.param)
    return str(folder), *asyncio.run(play(str(folder), str(home / "other"), questions))


@pytest.fixture(params=TEMPERATURES, ids=["temperature 1", "temperature 0.7"])
def played(request, both):
    return both[2][request.param]


def test_logprobs_agree_before_and_after_updates(played):
    print("gaps", [f"{gap:.1e}" for gap in played.gaps], "moved", [f"{m:.1e}" for m in played.moved])
    assert max(played.gaps) < TOLERANCE, [f"{gap:.1e}" for gap in played.gaps]


def test_the_updates_were_large_enough_to_be_seen(played):
    """Old completions score differently by a thousand tolerances: stale weights or caches could not pass."""
    assert min(played.moved) > 1000 * TOLERANCE, played.moved


def test_what_an_update_does_not_bring_stays_as_it_was(both):
    """Also in layers that vLLM fuses of several parameters, some of them new."""
    _, first, _ = both
    print("gaps", [f"{gap:.1e}" for gap in first.gaps], "moved", [f"{m:.1e}" for m in first.moved])
    assert max(first.gaps) < TOLERANCE, [f"{gap:.1e}" for gap in first.gaps]
    assert min(first.moved) > 1000 * TOLERANCE, first.moved


def test_prompts_are_the_processors_for_every_length(both, played):
    folder, _, _ = both
    processor, facts = load_processor(folder), family_of(folder).facts
    audio = processor.tokenizer.convert_tokens_to_ids(facts.audio_token)
    lengths = set()
    for group in played.groups:
        samples = soundfile.info(group.question.audio).frames
        assert group.prompt_token_ids.count(audio) == facts.clip_tokens(samples, 160)
        lengths.add(len(group.prompt_token_ids))
    assert len(lengths) == 4


def test_special_tokens_are_never_sampled(both, played):
    folder, _, _ = both
    tokenizer = load_processor(folder).tokenizer
    banned = banned_token_ids(tokenizer, len(tokenizer), stop_token_ids(folder, tokenizer))
    assert tokenizer.convert_tokens_to_ids(family_of(folder).facts.audio_token) in banned
    assert not {t for g in played.groups for c in g.completions for t in c.token_ids} & set(banned)


def test_special_tokens_do_not_break_the_learner(played):
    assert all(np.isfinite(value) for value in played.odd_metrics.values()), played.odd_metrics
    assert all(np.isfinite(s).all() for s in map(np.array, played.odd_scores))
