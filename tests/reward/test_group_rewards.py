"""Rewards that need the whole group, by hand."""

import pytest

from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from protocol.rollout import Completion, Group, StopReason
from reward.actor import RewardActor
from reward.group_rewards import length_of, length_reward, majority
from reward.settings import LengthSettings, LengthUnit, RewardSettings


def group(*texts: str, answer: str = "") -> Group:
    question = Question("d", 0, "q", "/clip.wav", "What is heard?", ("a dog", "a cat", "2"), answer)
    completions = tuple(Completion((1,), (-0.1,), text, StopReason.STOP) for text in texts)
    return Group(question, PromptTemplate.ANSWER, (1, 2), completions, weight_version=0, worker="w")


def tagged(answer: str) -> str:
    return f"<answer>{answer}</answer>"


@pytest.mark.parametrize(
    ("answers", "rewards"),
    [
        (("a dog", "a cat", "a cat"), [0, 1, 1]),
        (("a dog", "a dog", "a dog"), [1, 1, 1]),
        # Among equals the first one wins; a single answer wins against none.
        (("a dog", "a cat"), [1, 0]),
        (("", "", "a cat"), [0, 0, 1]),
        (("", " "), [0, 0]),
        # Another notation of the number that won the vote is right, too.
        (("2", "2", "2.0", "a dog"), [1, 1, 1, 0]),
    ],
)
def test_the_majority_is_right(answers: tuple[str, ...], rewards: list[float]) -> None:
    assert majority(group(*map(tagged, answers))) == rewards


def test_the_label_is_ignored() -> None:
    texts = [tagged("a cat"), "It barks. <answer>a cat</answer>", tagged("a dog")]
    assert [majority(group(*texts, answer=label)) for label in ("", "a dog", "a cat")] == [[1, 1, 0]] * 3


def test_a_group_whose_answer_is_unknown_is_scored() -> None:
    actor = RewardActor(RewardSettings(functions={"majority": 1.0, "format": 0.5}), 100)
    first, other = actor.score([group(tagged("a cat"), "a cat", tagged("a dog")), group(tagged("2"), tagged("2"))])
    assert [score.rewards for score in first] == [
        {"majority": 1, "format": 1},
        {"majority": 1, "format": 0},
        {"majority": 0, "format": 1},
    ]
    assert [score.total for score in first] == [1.5, 1.0, 0.5]
    assert [score.total for score in other] == [1.5, 1.5]


@pytest.mark.parametrize(("tokens", "reward"), [(10, 1), (9, 0.75), (12, 0.5), (6, 0), (14, 0), (100, 0), (0, 0)])
def test_the_length_reward_decreases_linearly_on_both_sides(tokens: int, reward: float) -> None:
    completion = Completion((1,) * tokens, (-0.1,) * tokens, "", StopReason.STOP)
    assert length_reward(completion, LengthSettings(target=10, tolerance=4)) == reward


def test_what_is_counted() -> None:
    text = "<think>It barks, loudly.</think>\n<answer>a dog</answer>"
    completion = Completion((1,) * 9, (-0.1,) * 9, text, StopReason.STOP)
    assert [length_of(completion, unit) for unit in LengthUnit] == [9, 5, 3]
    bare = Completion((1,), (-0.1,), "a dog", StopReason.STOP)
    assert [length_of(bare, unit) for unit in LengthUnit] == [1, 2, 0]


def test_the_actor_records_length_by_name() -> None:
    settings = RewardSettings.model_validate(
        {"functions": {"length": 2.0, "accuracy": 1.0}, "length": {"target": 3, "tolerance": 4, "unit": "words"}}
    )
    ((score,),) = RewardActor(settings, 100).score([group("a dog", answer="a dog")])
    assert (score.rewards, score.total) == ({"length": 0.75, "accuracy": 1.0}, 2.5)
