"""Rollouts run ahead of the learner within `max_staleness`, and every draw is accounted for."""

import asyncio
import random

import pytest

from audio_qa.question import Question
from orchestrator.job.spec import JobSpec
from orchestrator.training.rollouts import Rollouts
from orchestrator.training.state import RunState
from protocol.reward import Score
from protocol.rollout import Completion, FailedQuestion, Failure, Group, StopReason

QUESTIONS = [Question("d", i, str(i), f"{i}.wav", "?", ("a", "b"), "a") for i in range(7)]


def spec(steps=12, **rollout) -> JobSpec:
    learner = rollout.pop("learner", {})
    return JobSpec.model_validate(
        {
            "model": {"path": "m"},
            "data": {"train": "t"},
            "steps": steps,
            "rollout": {"questions_per_step": 3, "group_size": 2, **rollout},
            "learner": {"beta": 0, **learner},
        }
    )


class Workers:
    """Answers after a random delay, with the weight version at the time of the request."""

    def __init__(self, seed: int, equal_rewards: float = 0.0) -> None:
        self.version = 0
        self._random = random.Random(seed)
        self._equal = equal_rewards

    async def generate(self, requests, sampling):
        return list(await asyncio.gather(*(self._answer(request) for request in requests)))

    async def _answer(self, request):
        version = self.version
        await asyncio.sleep(self._random.random() * 0.01)
        if request.question.index == 5:
            return FailedQuestion(request.question, Failure.AUDIO, "no such file", "w")
        completion = Completion((1, 2), (-0.1, -0.2), "a", StopReason.STOP)
        return Group(request.question, request.template, (1,), (completion,) * 2, version, "w")

    async def score(self, groups):
        return [(Score({}, 1.0), Score({}, 1.0 if self._random.random() < self._equal else 0.0)) for _ in groups]


def train(job: JobSpec, workers: Workers, state: RunState, steps: int, learn_seconds: float = 0.004):
    """Take batches as the learner does, end their draws and raise the version; return batches and draws in flight."""

    async def loop():
        rollouts = Rollouts(job, QUESTIONS, state, workers.generate, workers.score)
        batches = []
        for step in range(state.step + 1, state.step + steps + 1):
            batch = await rollouts.batch(step)
            staleness = [workers.version - g.group.weight_version for g in batch.judged]
            for draw, reason, _ in batch.failed:
                state.ledger.failed(draw, reason)
            for g in batch.judged:
                state.ledger.trained(g.draw)
            state.ledger.check(held=rollouts.held)
            await asyncio.sleep(learn_seconds)
            workers.version += job.learner.loss.updates_per_batch
            state.step, state.position = step, rollouts.source.position
            batches.append((batch, staleness, rollouts.ready))
        held = set(rollouts.held)
        await rollouts.stop()
        return batches, held

    return asyncio.run(loop())


@pytest.mark.parametrize("staleness", [0, 1, 2, 5])
def test_never_staler_than_allowed_and_every_question_once(staleness):
    state = RunState()
    batches, held = train(spec(max_staleness=staleness), Workers(seed=staleness), state, steps=12)
    seen = [s for _, found, _ in batches for s in found]
    assert max(seen) == min(staleness, 11)
    assert [draw.number for batch, _, _ in batches for draw in sorted(batch.draws, key=lambda d: d.number)] == list(
        range(36)
    )
    assert not held, "nothing is started after the last step"
    assert state.ledger.counts()["drawn"] == 36


def test_strictly_on_policy_nothing_runs_ahead():
    batches, _ = train(spec(max_staleness=0), Workers(seed=1), RunState(), steps=12)
    assert all(set(found) <= {0} for _, found, _ in batches)
    assert {ready for _, _, ready in batches} == {0}


def test_several_updates_a_batch_count_as_several_versions():
    """Two updates a step: with staleness 3 only one step may run ahead."""
    job = spec(max_staleness=3, learner={"loss": {"updates_per_batch": 2}})
    batches, _ = train(job, Workers(seed=2), RunState(), steps=12)
    assert max(s for _, found, _ in batches for s in found) == 2


def test_rollouts_that_are_faster_wait():
    batches, _ = train(spec(max_staleness=2), Workers(seed=3), RunState(), steps=8, learn_seconds=0.05)
    assert batches[-2][2] == 2, "both batches that may run ahead are done"


def test_draws_in_flight_at_a_checkpoint_are_repeated_under_their_number():
    job, state = spec(max_staleness=2), RunState()
    _, held = train(job, Workers(seed=4), state, steps=5)
    assert len(held) == 6
    again = RunState()
    again.restore(state.to_dict())
    batches, _ = train(job, Workers(seed=5), again, steps=7)
    numbers = [draw.number for batch, _, _ in batches for draw in batch.draws]
    assert sorted(numbers) == list(range(15, 36))
    assert {d.number for d in held} == set(numbers[:6])
    counts = again.ledger.counts()
    assert (counts["drawn"], counts["in_flight"]) == (36, 0)


def test_dynamic_sampling_replaces_groups_that_are_not_trained_on():
    job = spec(learner={"loss": {"dynamic_sampling": True}}, max_refills=2)
    state = RunState()
    batches, _ = train(job, Workers(seed=6, equal_rewards=0.5), state, steps=12)
    drawn = [len(batch.draws) for batch, _, _ in batches]
    assert max(drawn) > 3
    for batch, _, _ in batches:
        trained = sum(g.verdict == "train" for g in batch.judged)
        assert trained == 3 or len(batch.draws) > 3
        assert trained <= 3
