"""The reward actor: every completion gets exactly one Score, in order."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from protocol.reward import Score
from protocol.rollout import Completion, Group, StopReason
from reward.actor import RewardActor
from reward.registry import RewardError
from reward.settings import RewardSettings

OBEYS = "house_rewards:obeys"
LENGTH = "house_rewards:length"


def group(question: Question, *texts: str, template: PromptTemplate = PromptTemplate.ANSWER) -> Group:
    completions = tuple(Completion((1,), (-0.1,), text, StopReason.STOP) for text in texts)
    return Group(question, template, (1, 2), completions, weight_version=0, worker="w")


@pytest.fixture(scope="module")
def custom(rewards_home: Path) -> Iterator[RewardActor]:
    actor = RewardActor(
        RewardSettings(
            functions={OBEYS: 2.0, "accuracy": 1.0, LENGTH: -1.0},
            allowed_modules=["house_rewards"],
            timeout_seconds=1,
            processes=2,
        ),
        max_tokens=100,
    )
    yield actor
    actor.close()


def test_the_papers_rewards(question: Question) -> None:
    actor = RewardActor(RewardSettings(), 100)
    right, wrong, bare = "<answer>a dog</answer>", "<answer>a cat</answer>", "a dog"
    scores = actor.score([group(question, right, wrong), group(question, bare, template=PromptTemplate.PLAIN)])
    assert scores == [
        (Score({"accuracy": 1.0, "format": 1.0}, 2.0), Score({"accuracy": 0.0, "format": 1.0}, 1.0)),
        (Score({"accuracy": 1.0, "format": 1.0}, 2.0),),
    ]
    actor.close()


def test_weights_multiply_and_rewards_are_kept_unweighted(question: Question) -> None:
    actor = RewardActor(RewardSettings(functions={"format": 0.5, "accuracy": 2.0}), 100)
    ((score,),) = actor.score([group(question, "<answer>a dog</answer>")])
    assert score == Score({"format": 1.0, "accuracy": 1.0}, 2.5)


def test_no_groups_and_empty_groups(question: Question) -> None:
    actor = RewardActor(RewardSettings(), 100)
    assert actor.score([]) == []
    assert actor.score([group(question)]) == [()]


def test_a_total_that_overflows_is_an_error(custom: RewardActor, question: Question) -> None:
    ((score,),) = custom.score([group(question, "large")])
    assert not score.valid
    assert score.total == 0.0


def test_built_in_and_custom_functions_are_summed(custom: RewardActor, question: Question) -> None:
    ((score,),) = custom.score([group(question, "a dog")])
    assert score.rewards == {OBEYS: 0.5, "accuracy": 1.0, LENGTH: 0.5}
    assert score.total == 2.0 * 0.5 + 1.0 - 0.5
    assert score.valid


@pytest.mark.parametrize("text", ["raise", "exit", "end", "end well", "kill", "hang", "nan", "inf", "none", "string"])
def test_a_completion_that_cannot_be_scored_is_masked_and_alone(
    custom: RewardActor, question: Question, text: str
) -> None:
    scores = custom.score([group(question, "a dog", text, "a cat"), group(question, "a dog")])
    assert [len(group_scores) for group_scores in scores] == [3, 1]
    (right, bad, wrong), (other,) = scores
    assert [score.valid for score in (right, bad, wrong, other)] == [True, False, True, True]
    assert [score.rewards["accuracy"] for score in (right, wrong, other)] == [1.0, 0.0, 1.0]
    assert bad.error is not None
    assert bad.error.startswith(f"{OBEYS}: ")
    assert bad.total == 0.0
    assert bad.rewards == {"accuracy": 0.0, LENGTH: len(text) / 10}


def test_every_completion_of_a_large_batch_has_its_own_score(custom: RewardActor, question: Question) -> None:
    texts = ["kill" if i % 61 == 7 else "x" * (i % 50) for i in range(256)]
    groups = [group(question, *texts[start : start + 8]) for start in range(0, 256, 8)]
    scores = [score for group_scores in custom.score(groups) for score in group_scores]
    assert len(scores) == 256
    for text, score in zip(texts, scores, strict=True):
        assert score.valid == (text != "kill")
        assert score.rewards[LENGTH] == len(text) / 10


def test_a_missing_function_is_refused_at_the_start(rewards_home: Path) -> None:
    settings = RewardSettings(functions={"house_rewards:lenght": 1}, allowed_modules=["house_rewards"])
    with pytest.raises(RewardError, match="nearest there is 'length'"):
        RewardActor(settings, 100)


def test_the_actor_needs_no_torch() -> None:
    code = "import sys, reward.actor; sys.exit('torch' in sys.modules or 'vllm' in sys.modules or 'ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_overlong_penalty_is_linear(question: Question) -> None:
    actor = RewardActor(RewardSettings(functions={"accuracy": 1.0}, overlong_tokens=4), max_tokens=10)
    completions = tuple(Completion((1,) * n, (-0.1,) * n, "a dog", StopReason.STOP) for n in (2, 6, 8, 9, 10))
    (scores,) = actor.score([Group(question, PromptTemplate.ANSWER, (1, 2), completions, 0, "w")])
    assert [score.rewards["overlong"] for score in scores] == [0, 0, -0.5, -0.75, -1]
    assert [score.total for score in scores] == [1, 1, 0.5, 0.25, 0]
