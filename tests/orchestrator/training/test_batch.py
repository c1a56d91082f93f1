"""The groups that the learner gets, and their advantages."""

import math

import pytest

from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from learner.messages import BatchCounts
from learner.settings import LearnerSettings
from orchestrator.questions.ledger import Draw
from orchestrator.training.batch import Verdict, batch_counts, judge
from orchestrator.training.rollouts import Batch
from orchestrator.training.step_metrics import Stopwatch, step_metrics
from protocol.reward import Score
from protocol.rollout import Completion, Group, StopReason

QUESTION = Question("d", 0, "0", "0.wav", "?", ("a", "b"), "a")


def settings(**changes) -> LearnerSettings:
    return LearnerSettings.model_validate({"beta": 0.0, **changes})


def group(size: int, others: StopReason = StopReason.STOP) -> Group:
    completions = tuple(
        Completion((i, 2), (-0.5, -0.1), f"text {i}", StopReason.LENGTH if i == 0 else others) for i in range(size)
    )
    return Group(QUESTION, PromptTemplate.ANSWER, (1, 2, 3), completions, weight_version=4, worker="rollout-0")


def scores(*totals: float | None) -> list[Score]:
    return [
        Score({}, 0.0, "timed out") if total is None else Score({"accuracy": total, "format": 0.0}, total)
        for total in totals
    ]


def test_advantages_go_with_their_completions():
    judged = judge(Draw("d:0", 0), group(2), scores(1.0, 0.0), settings(beta=0.0))
    assert judged.verdict is Verdict.TRAIN
    spread = math.sqrt(0.5) + 1e-4
    assert judged.advantages == pytest.approx((0.5 / spread, -0.5 / spread))
    assert [c.token_ids for c in judged.training_group().completions] == [(0, 2), (1, 2)]


def test_unscored_completions_are_left_out_not_scored_zero():
    judged = judge(Draw("d:0", 0), group(3), scores(1.0, None, 0.0), settings(beta=0.0))
    assert judged.advantages[1] is None
    assert judged.counted == (True, False, True)
    # The mean is that of the two valid rewards: a zero for the crash would have made it 1/3.
    assert judged.advantages[0] == pytest.approx(-judged.advantages[2])
    assert [c.token_ids for c in judged.training_group().completions] == [(0, 2), (2, 2)]


@pytest.mark.parametrize("totals", [(None, None, None), (1.0, None, None)])
def test_fewer_than_two_scores_train_nothing(totals):
    judged = judge(Draw("d:0", 0), group(3), scores(*totals), settings(beta=0.04))
    assert judged.verdict is Verdict.UNSCORED
    assert batch_counts([judged], settings()) == BatchCounts(0, 0)


@pytest.mark.parametrize(("beta", "verdict"), [(0.0, Verdict.ZERO_VARIANCE), (0.04, Verdict.TRAIN)])
def test_equal_rewards_are_trained_on_only_for_the_kl(beta, verdict):
    judged = judge(Draw("d:0", 0), group(2), scores(1.0, 1.0), settings(beta=beta))
    assert judged.verdict is verdict
    assert judged.advantages == (0.0, 0.0)
    assert batch_counts([judged], settings(beta=beta)) == BatchCounts(2, 4)


def test_truncated_completions_are_masked_but_count_for_the_advantages():
    """The first completion is truncated: its reward enters the advantages of all, but it does not count in the loss."""
    masking = settings(loss={"mask_truncated": True})
    judged = judge(Draw("d:0", 0), group(3), scores(1.0, 0.0, 0.0), masking)
    assert judged.advantages[0] > 0
    assert judged.counted == (False, True, True)
    assert batch_counts([judged], masking) == BatchCounts(2, 4)
    assert [c.counts for c in judged.training_group().completions] == [False, True, True]


def test_a_group_of_truncated_completions_is_not_trained_on():
    masking = settings(loss={"mask_truncated": True})
    judged = judge(Draw("d:0", 0), group(2, StopReason.LENGTH), scores(1.0, 0.0), masking)
    assert judged.verdict is Verdict.TRUNCATED
    assert batch_counts([judged], masking) == BatchCounts(0, 0)


def test_with_dynamic_sampling_equal_rewards_neither_train_nor_count():
    dynamic = settings(beta=0.04, loss={"dynamic_sampling": True})
    judged = judge(Draw("d:0", 0), group(2), scores(1.0, 1.0), dynamic)
    assert judged.verdict is Verdict.ZERO_VARIANCE
    assert batch_counts([judged], dynamic) == BatchCounts(0, 0)


def test_the_loss_decides_the_advantages():
    judged = judge(Draw("d:0", 0), group(2), scores(1.0, 0.0), settings(loss={"algorithm": "rloo"}))
    assert judged.advantages == (1.0, -1.0)


def test_groups_of_a_skipped_update_count_as_failed():
    judged = [judge(Draw("d:0", 0), group(2), scores(1.0, 0.0), settings())]
    metrics = step_metrics(
        step=1,
        epoch=0,
        batch=Batch(1),
        judged=judged,
        learned={"kl/ref": 0.0, "tokens/trained": 4.0, "learner/updates": 0.0, "learner/nonfinite": 1.0},
        learner_version=4,
        workers_alive=1,
        watch=Stopwatch(),
        beta=0.0,
    )
    assert (metrics["groups/trained"], metrics["groups/failed"]) == (0, 1)


def test_step_metrics_by_hand():
    watch = Stopwatch()
    watch.seconds |= {"learner_wait": 2.5, "learn": 4.0, "sync": 0.25}
    judged = [
        judge(Draw("d:0", 0), group(2), scores(1.0, 0.0), settings(beta=0.1)),
        judge(Draw("d:0", 1), group(2), scores(None, None), settings(beta=0.1)),
    ]
    metrics = step_metrics(
        step=3,
        epoch=0.5,
        batch=Batch(3, failed=[(Draw("d:1", 2), "audio", "no such file")], generate_seconds=2.0, reward_seconds=0.5),
        judged=judged,
        learned={"kl/ref": 0.2, "tokens/trained": 8.0},
        learner_version=5,
        workers_alive=2,
        watch=watch,
        beta=0.1,
    )
    expected = {
        "step": 3,
        "reward/mean": 0.5,
        "reward/accuracy": 0.5,
        "reward/format": 0.0,
        "loss/kl": pytest.approx(0.02),
        "completion/length_mean": 2.0,
        "completion/truncated_fraction": 0.5,
        "groups/trained": 1,
        "groups/failed": 2,
        "groups/zero_variance": 0,
        "samples/invalid": 2,
        "staleness/max": 1,
        "tokens/generated_per_second": 4.0,
        "tokens/trained_per_second": 2.0,
        "time/learner_wait": 2.5,
    }
    for name, value in expected.items():
        assert metrics[name] == value, name


def test_a_step_in_which_every_question_failed_has_no_reward():
    metrics = step_metrics(
        step=1,
        epoch=0,
        batch=Batch(1, failed=[(Draw(f"d:{i}", i), "audio", "no such file") for i in range(4)]),
        judged=[],
        learned={},
        learner_version=0,
        workers_alive=1,
        watch=Stopwatch(),
        beta=0.0,
    )
    assert metrics["reward/mean"] is None
    assert metrics["loss/policy"] is None
    assert metrics["groups/failed"] == 4
