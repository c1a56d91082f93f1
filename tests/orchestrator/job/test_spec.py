"""Job files: reading and validation, with one line for each error."""

import json
from pathlib import Path

import pytest
import yaml

from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError, dump_spec, parse_spec, read_spec, resolve_paths

EXAMPLES = Path(__file__).parents[3] / "examples"
UNLABELLED = {"train": "t", "unlabelled": True}
MAJORITY = {"functions": {"majority": 1.0}}
SMALLEST = {"model": {"path": "m"}, "data": {"train": "t.jsonl"}}


def judged(prompt):
    return {"functions": {"judge": 1.0}, "judge": {"url": "http://host/v1", "model": "m", "prompt": prompt}}


def test_a_password_in_a_judges_url_is_not_repeated():
    reward = {"functions": {"judge": 1}, "judge": {"url": "http://me:hunter2@host/v1", "model": "m"}}
    with pytest.raises(SpecError) as caught:
        parse_spec({**SMALLEST, "reward": reward}, "job")
    assert "hunter2" not in str(caught.value)


def test_without_labels_a_job_may_be_rewarded_by_majority():
    spec = parse_spec({**SMALLEST, "data": UNLABELLED, "reward": judged("{completion}")}, "job")
    assert spec.data.unlabelled
    assert parse_spec({**SMALLEST, "data": UNLABELLED, "reward": MAJORITY}, "job").reward.functions == {"majority": 1.0}


def test_defaults_are_the_papers():
    spec = parse_spec(SMALLEST, "job")
    assert (spec.rollout.group_size, spec.rollout.temperature, spec.rollout.max_tokens) == (8, 1.0, 256)
    assert (spec.steps, spec.seed, spec.data.prompt) == (1000, 42, "2")
    optimizer = spec.learner.optimizer
    assert (spec.learner.beta, optimizer.learning_rate, optimizer.schedule) == (0.04, 1e-6, "linear")
    assert (optimizer.max_grad_norm, spec.reward.functions) == (1.0, {"accuracy": 1.0, "format": 1.0})


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("**/*.yaml")), ids=lambda p: p.name)
def test_every_example_is_valid_and_survives_the_round_trip(path):
    spec = read_spec(path)
    assert JobSpec.model_validate(yaml.safe_load(dump_spec(spec))) == spec


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"modle": {}}, ["'modle'", "'model'"]),
        ({"rollout": {"group_sise": 4}}, ["'rollout.group_sise'", "'group_size'"]),
        ({"learner": {"optimizer": {"learning_rat": 1}}}, ["'learner.optimizer.learning_rat'", "'learning_rate'"]),
        ({"rollout": {"group_size": 1}}, ["rollout.group_size", "greater than or equal to 2", "1"]),
        ({"rollout": {"top_p": 0.9}}, ["top_p", "leave it out"]),
        ({"rollout": {"top_k": 20}}, ["top_k", "leave it out"]),
        ({"rollout": {"temperature": 0}}, ["rollout.temperature", "greater than 0"]),
        ({"model": {}}, ["'model.path' is missing"]),
        ({"learner": {"zero_stage": 4}}, ["learner.zero_stage"]),
        ({"reward": {"functions": {"acuracy": 1}}}, ["acuracy", "accuracy"]),
        ({"data": {"train": "t.jsonl", "prompt": "4"}}, ["data.prompt"]),
        ({"name": "a/b"}, ["'name': use letters, digits, dot, dash and underscore, at most 63 characters", "'a/b'"]),
        ({"tracking": {"wandb": {"project": "a:b"}}}, ["'tracking.wandb.project': use letters"]),
        ({"data": {"train": "t", "curriculum": {"order": "easy_first"}}}, ["data.curriculum", "need measured"]),
        ({"data": {"train": "t", "curriculum": {"max_solve_rate": 0.9}}}, ["data.curriculum", "need measured"]),
        (
            {"data": {"train": "t", "curriculum": {"measured": "m", "min_solve_rate": 0.5, "max_solve_rate": 0.1}}},
            ["min_solve_rate", "swap them"],
        ),
        ({"data": {"train": "t", "curriculum": {}}, "method": "supervised"}, ["data.curriculum", "leave it out"]),
        ({"data": {"train": "t", "unlabelled": True}}, ["data.unlabelled", "'accuracy'"]),
        ({"data": UNLABELLED, "reward": MAJORITY, "warm_start": {"steps": 1}}, ["data.unlabelled", "warm_start"]),
        ({"data": UNLABELLED, "reward": MAJORITY, "method": "supervised"}, ["data.unlabelled", "method supervised"]),
        ({"data": UNLABELLED | {"curriculum": {}}, "reward": MAJORITY}, ["data.unlabelled", "data.curriculum"]),
        ({"data": UNLABELLED, "reward": judged("{answer} {completion}")}, ["data.unlabelled", "reward.judge.prompt"]),
        ({"reward": judged("{completion}"), "deterministic": True}, ["deterministic", "judge"]),
        ({"reward": {"functions": {"judge": 1}, "judge": {"url": "http://a:b@c", "model": "m"}}}, ["api_key_env"]),
        ({"reward": {"functions": {"judge": 1}, "judge": {"urll": "http://c", "model": "m"}}}, ["'url'"]),
        ({"model": {"path": "m", "max_context": 64}, "rollout": {"max_tokens": 64}}, ["rollout.max_tokens", "lower"]),
    ],
)
def test_one_line_names_the_key_and_the_correction(change, words):
    with pytest.raises(SpecError) as caught:
        parse_spec({**SMALLEST, **change}, "job.yaml")
    message = str(caught.value)
    assert message.startswith("job.yaml: ")
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_neutral_values_of_top_p_and_top_k_are_accepted():
    assert parse_spec({**SMALLEST, "rollout": {"top_p": 1.0, "top_k": 0}}, "job").rollout.group_size == 8


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "this one has none"),
        ("- a\n- b\n", "this one has none"),
        ("model: {path: m\n", "not valid YAML"),
        ("steps: 1\nsteps: 2\n", "duplicate key 'steps' in line 2, first in line 1"),
    ],
)
def test_a_file_that_is_not_a_job(tmp_path, text, words):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=words):
        read_spec(path)


def test_a_json_file_is_read_as_json(tmp_path):
    path = tmp_path / "job.json"
    path.write_text('{"model" 1}')
    with pytest.raises(SpecError, match=r"job\.json: not valid JSON: line 1, column 10"):
        read_spec(path)
    path.write_text(json.dumps(SMALLEST, indent="\t"))
    assert read_spec(path) == parse_spec(SMALLEST, "job")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SpecError, match=r"nowhere\.yaml.*cannot be read"):
        read_spec(tmp_path / "nowhere.yaml")


def test_relative_paths_start_at_the_job_file(tmp_path):
    spec = resolve_paths(parse_spec(SMALLEST, "job"), tmp_path)
    assert spec.model.path == str(tmp_path / "m")
    assert spec.data.train == str(tmp_path / "t.jsonl")
    curriculum = {"curriculum": {"measured": "runs/samples.jsonl"}}
    spec = resolve_paths(parse_spec({**SMALLEST, "data": SMALLEST["data"] | curriculum}, "job"), tmp_path)
    assert spec.data.curriculum.measured == str(tmp_path / "runs" / "samples.jsonl")
    built_in = parse_spec({"model": {"path": "builtin:x"}, "data": {"train": "builtin:y"}}, "job")
    assert resolve_paths(built_in, tmp_path) == built_in


@pytest.mark.parametrize(
    ("staleness", "given", "level"),
    [(0, None, "none"), (2, None, "token"), (2, "none", "none"), (0, "sequence", "sequence")],
)
def test_stale_samples_have_importance_weights_unless_the_job_says_otherwise(staleness, given, level):
    correction = {} if given is None else {"level": given}
    spec = JobSpec.model_validate(
        {
            "model": {"path": "m"},
            "data": {"train": "t"},
            "rollout": {"max_staleness": staleness},
            "learner": {"loss": {"correction": correction}},
        }
    )
    assert spec.learner.loss.correction.level == level
    assert JobSpec.model_validate(spec.model_dump()) == spec


def test_compiling_is_for_gpus():
    job = {"model": {"path": "m"}, "data": {"train": "t"}, "learner": {"compile": True}}
    with pytest.raises(ValueError, match=r"learner\.compile needs GPUs, and with rollout\.gpus 0"):
        JobSpec.model_validate(job)
    assert JobSpec.model_validate(job | {"rollout": {"gpus": 1}}).learner.compile
