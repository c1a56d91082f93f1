"""Which groups the learner gets, with which advantages."""

import math

import pytest

from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from orchestrator.batch import Verdict, judge
from orchestrator.ledger import Draw
from orchestrator.step_metrics import Stopwatch, step_metrics
from protocol.reward import Score
from protocol.rollout import Completion, Group, StopReason

QUESTION = Question("d", 0, "0", "0.wav", "?", ("a", "b"), "a")


def group(size: int) -> Group:
    completions = tuple(
        Completion((i, 2), (-0.5, -0.1), f"text {i}", StopReason.LENGTH if i == 0 else StopReason.STOP)
        for i in range(size)
    )
    return Group(QUESTION, PromptTemplate.ANSWER, (1, 2, 3), completions, weight_version=4, worker="rollout-0")


def scores(*totals: float | None) -> list[Score]:
    return [
        Score({}, 0.0, "timed out") if total is None else Score({"accuracy": total, "format": 0.0}, total)
        for total in totals
    ]


def test_advantages_go_with_their_completions():
    judged = judge(Draw("d:0", 0), group(2), scores(1.0, 0.0), beta=0.0)
    assert judged.verdict is Verdict.TRAIN
    spread = math.sqrt(0.5) + 1e-4
    assert judged.advantages == pytest.approx((0.5 / spread, -0.5 / spread))
    assert [c.token_ids for c in judged.training_group().completions] == [(0, 2), (1, 2)]


def test_what_could_not_be_scored_is_left_out_not_scored_zero():
    judged = judge(Draw("d:0", 0), group(3), scores(1.0, None, 0.0), beta=0.0)
    assert judged.advantages[1] is None
    assert judged.sequences == 2
    # The mean is that of the two valid rewards: a zero for the crash would have made it 1/3.
    assert judged.advantages[0] == pytest.approx(-judged.advantages[2])
    assert [c.token_ids for c in judged.training_group().completions] == [(0, 2), (2, 2)]


@pytest.mark.parametrize("totals", [(None, None, None), (1.0, None, None)])
def test_fewer_than_two_scores_train_nothing(totals):
    judged = judge(Draw("d:0", 0), group(3), scores(*totals), beta=0.04)
    assert (judged.verdict, judged.sequences) == (Verdict.UNSCORED, 0)


@pytest.mark.parametrize(("beta", "verdict"), [(0.0, Verdict.ZERO_VARIANCE), (0.04, Verdict.TRAIN)])
def test_equal_rewards_are_trained_on_only_for_the_kl(beta, verdict):
    judged = judge(Draw("d:0", 0), group(2), scores(1.0, 1.0), beta=beta)
    assert judged.verdict is verdict
    assert judged.advantages == (0.0, 0.0)
    assert judged.sequences == 2


def test_step_metrics_by_hand():
    watch = Stopwatch()
    watch.seconds |= {"generate": 2.0, "reward": 0.5, "learn": 4.0, "sync": 0.25}
    judged = [
        judge(Draw("d:0", 0), group(2), scores(1.0, 0.0), beta=0.1),
        judge(Draw("d:0", 1), group(2), scores(None, None), beta=0.1),
    ]
    metrics = step_metrics(
        step=3,
        epoch=0.5,
        judged=judged,
        failed=1,
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
        judged=[],
        failed=4,
        learned={},
        learner_version=0,
        workers_alive=1,
        watch=Stopwatch(),
        beta=0.0,
    )
    assert metrics["reward/mean"] is None
    assert metrics["loss/policy"] is None
    assert metrics["groups/failed"] == 4
