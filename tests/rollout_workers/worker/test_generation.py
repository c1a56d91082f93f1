"""The completions of a pool of real engines, compared with transformers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audio_qa.question import Question
from protocol.rollout import FailedQuestion, Failure, Group, Sampling, StopReason

TOLERANCE = 1e-4
SAMPLING = Sampling(group_size=4, max_tokens=24)


def largest_difference(tiny, groups, temperature, silent=False, other_clip=None):
    return max(
        np.abs(np.array(c.logprobs) - tiny.logprobs(g, c, temperature, silent, other_clip).numpy()).max()
        for g in groups
        for c in g.completions
    )


def drawn(groups):
    return [[c.token_ids for c in g.completions] for g in groups]


def test_groups_are_whole_and_in_order(pool, run, requests, tiny):
    groups = run(pool.generate(requests, SAMPLING))
    assert [g.question for g in groups] == [r.question for r in requests]
    assert {g.worker for g in groups} == {"rollout-0", "rollout-1"}
    for group in groups:
        assert isinstance(group, Group)
        assert len(group.completions) == 4
        for completion in group.completions:
            ended = completion.token_ids[-1] in tiny.stops
            assert 1 <= len(completion.token_ids) == len(completion.logprobs) <= 24
            assert completion.stop_reason is (StopReason.STOP if ended else StopReason.LENGTH)
            assert ended or len(completion.token_ids) == 24
            assert not set(completion.token_ids[:-1]) & set(tiny.stops)
            assert "<|im_end|>" not in completion.text


def test_completions_end_for_both_reasons(pool, run, requests):
    groups = run(pool.generate(requests, Sampling(group_size=16, max_tokens=32, temperature=1.5)))
    reasons = {c.stop_reason for g in groups for c in g.completions}
    assert reasons == {StopReason.STOP, StopReason.LENGTH}


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_equal_transformers(pool, run, requests, tiny, temperature):
    groups = run(pool.generate(requests, replace(SAMPLING, temperature=temperature)))
    assert largest_difference(tiny, groups, temperature) < TOLERANCE


def test_greedy_is_the_most_likely_allowed_token(pool, run, requests, tiny):
    groups = run(pool.generate(requests, Sampling(group_size=1, max_tokens=16, temperature=0.0)))
    assert largest_difference(tiny, groups, 0.0) < TOLERANCE
    for group in groups:
        logits = tiny.logits(group, group.completions[0])
        logits[:, list(tiny.banned)] = float("-inf")
        assert tuple(logits.argmax(-1).tolist()) == group.completions[0].token_ids


def test_prompt_ids_equal_the_processors(pool, run, requests, tiny):
    groups = run(pool.generate(requests, Sampling(group_size=1, max_tokens=1)))
    for group, request in zip(groups, requests, strict=True):
        assert group.prompt_token_ids == tiny.prompt_ids(request)
    assert len({g.prompt_token_ids.count(tiny.processor.audio_token_id) for g in groups}) == 5


def test_a_seed_decides_its_group_in_any_order_and_batch(pool, run, requests):
    together = run(pool.generate(requests, SAMPLING))
    backwards = run(pool.generate(requests[::-1], SAMPLING, round_robin=True))[::-1]
    alone = [run(pool.generate([r], SAMPLING))[0] for r in requests[:3]]
    assert drawn(together) == drawn(backwards)
    assert drawn(together)[:3] == drawn(alone)


def test_neighbouring_seeds_share_no_sample(pool, run, requests):
    neighbours = [replace(requests[0], seed=s) for s in range(8)]
    groups = run(pool.generate(neighbours, Sampling(group_size=8, max_tokens=12)))
    samples = [c.token_ids for g in groups for c in g.completions]
    assert len(set(samples)) == len(samples)


def test_silence_replaces_the_clip(pool, run, requests, tiny):
    heard = run(pool.generate(requests[:5], SAMPLING))
    silent = run(pool.generate([replace(r, silent=True) for r in requests[:5]], SAMPLING))
    assert [g.prompt_token_ids for g in heard] == [g.prompt_token_ids for g in silent]
    assert drawn(heard) != drawn(silent)
    assert largest_difference(tiny, silent, 1.0, silent=True) < TOLERANCE
    assert largest_difference(tiny, silent, 1.0) > 0.01


def test_another_clip_replaces_the_own_one_despite_caches(pool, run, requests, tiny, tmp_path):
    """Clips of the same length have the same prompt tokens: an engine must not confuse their cached embeddings."""
    own = requests[0].question.audio
    others = [str(tmp_path / f"{i}.wav") for i in range(2)]
    frames = soundfile.info(own).frames
    for i, path in enumerate(others):
        noise = np.random.default_rng(i).uniform(-0.5, 0.5, frames).astype(np.float32)
        soundfile.write(path, noise, 16_000, subtype="FLOAT")
    # Also a clip of another length, from another question.
    clips = [None, others[0], None, others[1], requests[2].question.audio]
    asked = [replace(requests[0], other_clip=clip) for clip in clips]
    # One by one on one worker, so that each finds the caches of the one before; then all at once.
    alone = [run(pool.generate([request], SAMPLING, round_robin=True))[0] for request in asked]
    together = run(pool.generate(asked, SAMPLING))
    assert drawn(alone) == drawn(together)
    assert [g.question for g in together] == [requests[0].question] * len(asked)
    assert len({g.prompt_token_ids for g in together[:4]}) == 1
    assert together[4].prompt_token_ids != together[0].prompt_token_ids
    by_clip = [
        largest_difference(tiny, [group], 1.0, other_clip=clip) for group, clip in zip(together, clips, strict=True)
    ]
    assert max(by_clip) < TOLERANCE
    swapped = [others[0], own, others[1], own]
    assert all(largest_difference(tiny, [g], 1.0, other_clip=c) > 0.01 for g, c in zip(together, swapped, strict=False))


def test_questions_that_cannot_be_asked_are_reported_and_the_rest_answered(pool, run, requests, tmp_path: Path):
    def about(path: Path | str, text: str = "What?") -> object:
        return replace(requests[0], question=Question("bad", 0, "b", str(path), text, ("one", "two"), "one"))

    blip, long = tmp_path / "blip.wav", tmp_path / "long.wav"
    soundfile.write(blip, np.zeros(200, dtype=np.float32), 16_000)
    soundfile.write(long, np.zeros(40_000, dtype=np.float32), 16_000)
    clip = requests[0].question.audio
    asked = [
        about(tmp_path / "missing.wav"),
        requests[0],
        about(blip),
        about(long),
        about(clip, "word " * 60),
        about(clip, "word " * 100_000),
        requests[1],
    ]
    answers = run(pool.generate(asked, SAMPLING, round_robin=True))
    assert [a.question for a in answers] == [r.question for r in asked]
    reasons = [a.reason if isinstance(a, FailedQuestion) else None for a in answers]
    too_long = Failure.PROMPT_TOO_LONG
    assert reasons == [Failure.AUDIO, None, Failure.AUDIO, Failure.AUDIO, too_long, too_long, None]
    assert "missing.wav" in answers[0].detail
    assert drawn([answers[1], answers[6]]) == drawn(run(pool.generate(requests[:2], SAMPLING, round_robin=True)))


def test_round_robin_assigns_requests_by_index(pool, run, requests):
    groups = run(pool.generate(requests, SAMPLING, round_robin=True))
    assert [g.worker for g in groups] == ["rollout-0", "rollout-1"] * 5


def test_workers_report_their_counts(pool, run, requests):
    before = pool.workers()
    groups = run(pool.generate(requests, SAMPLING, round_robin=True))
    after = pool.workers()
    tokens = sum(len(c.token_ids) for g in groups for c in g.completions)
    assert sum(s.requests_finished for s in after) - sum(s.requests_finished for s in before) == len(requests)
    assert sum(s.tokens_generated for s in after) - sum(s.tokens_generated for s in before) == tokens
    assert [(s.name, s.state, s.restarts) for s in after] == [(f"rollout-{i}", "serving", 0) for i in range(2)]
    assert all(s.pid and s.node for s in after)
