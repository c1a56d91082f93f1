"""Every recipe in examples/ can be planned, has its rewards, and has a section about when to use it."""

from pathlib import Path

import pytest

from audio_qa.question import Question
from orchestrator.job.spec_file import read_spec, resolve_paths
from orchestrator.preflight.plan import plan
from orchestrator.training.rollouts import source_of
from orchestrator.training.state import RunState
from protocol.rollout import Completion, Group, StopReason
from reward.actor import RewardActor
from reward.registry import NAMES

ROOT = Path(__file__).parents[2]
RECIPES = [path for path in sorted((ROOT / "examples").glob("*.yaml")) if path.name != "demo.yaml"]
PAGE = (ROOT / "docs" / "use" / "rewards-and-recipes.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_is_planned_as_a_dry_run_plans_it(path):
    spec = resolve_paths(read_spec(path), path.parent)
    planned = plan(spec)
    assert planned["name"] == path.stem.replace("_", "-")
    assert planned["training_questions"] > 0


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_its_page_says_when_to_use_it_and_when_not(path):
    sections = [section for section in PAGE.split("\n## ")[1:] if f"examples/{path.name}" in section]
    assert len(sections) == 1, f"the page has {len(sections)} sections about {path.name}"
    assert "**Use it**" in sections[0]
    assert "**Not**" in sections[0]


@pytest.mark.parametrize("name", NAMES)
def test_the_page_has_every_built_in_reward(name):
    table = PAGE.split("\n## ")[0]
    assert f"`{name}`" in table, f"docs/use/rewards-and-recipes.md says nothing about the reward {name}"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_its_rewards_are_recorded_by_name(path, monkeypatch):
    """All rewards score a group; the judge, which is asked over HTTP, is replaced."""
    spec = read_spec(path)
    answer = "" if spec.data.unlabelled else "a dog"
    question = Question("d", 0, "q", "/clip.wav", "What is heard?", ("a dog", "a cat"), answer)
    texts = ("<think>It barks: a dog.</think><answer>a dog</answer>", "<answer>a dog</answer>", "a cat")
    completions = tuple(Completion((1,) * 7, (-0.1,) * 7, text, StopReason.STOP) for text in texts)
    group = Group(question, spec.data.prompt, (1,), completions, weight_version=0, worker="w")
    actor = RewardActor(spec.reward, spec.rollout.max_tokens)
    if spec.reward.judge is not None:
        monkeypatch.setattr(actor._judge, "rate", lambda groups: [0.5] * 3)
    (scores,) = actor.score([group])
    named = set(spec.reward.functions) | ({"overlong"} if spec.reward.overlong_tokens else set())
    assert all(score.valid and set(score.rewards) == named for score in scores)
    assert len({score.total for score in scores}) > 1


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_its_source_draws_each_question_once_a_step(path):
    spec = read_spec(path)
    questions = [Question("d", i, str(i), f"{i}.wav", "?", ("a", "b"), "a") for i in range(40)]
    drawn = source_of(spec, questions, RunState(), {}).draw(spec.rollout.questions_per_step)
    assert len({question.key for question in drawn}) == spec.rollout.questions_per_step
