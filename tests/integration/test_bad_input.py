"""Bad input ends with one line on stderr and exit code 2; nothing is written or started."""

import json

import pytest
import soundfile
import yaml
from integration.conftest import earshot
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.job.memory.published import TINY_SIZES


def rewritten(path, **change):
    """Change the second question of a dataset file."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[1] |= change
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def with_key(job, section, key, value):
    spec = yaml.safe_load(job.read_text())
    spec.setdefault(section, {})[key] = value
    job.write_text(yaml.safe_dump(spec))


def missing_audio(job, _):
    (job.parent / "data" / "train" / "000001.wav").unlink()
    return ["000001.wav"]


def broken_audio(job, _):
    (job.parent / "data" / "train" / "000001.wav").write_bytes(b"RIFF, but no audio")
    return ["000001.wav"]


def unknown_key(job, _):
    with_key(job, "rollout", "grop_size", 4)
    return ["'rollout.grop_size'", "'group_size'"]


def answer_not_a_choice(job, _):
    rewritten(job.parent / "data" / "train.jsonl", answer="five hundred")
    return ["train.jsonl", "line 2", "five hundred"]


def empty_dataset(job, _):
    (job.parent / "data" / "train.jsonl").write_text("")
    return ["train.jsonl", "holds no question"]


def no_processor(job, tiny_folder):
    folder = job.parent / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).symlink_to(tiny_folder / name)
    with_key(job, "model", "path", str(folder))
    return [str(folder), "processor"]


def another_architecture(job, tiny_folder):
    folder = job.parent / "model"
    folder.mkdir()
    for path in tiny_folder.iterdir():
        if path.name != "config.json":
            (folder / path.name).symlink_to(path)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    with_key(job, "model", "path", str(folder))
    return [str(folder), "llama", "qwen2_audio"]


def group_of_one(job, _):
    with_key(job, "rollout", "group_size", 1)
    return ["rollout.group_size", "2"]


def prompt_too_long(job, _):
    with_key(job, "model", "max_context", 100)
    return ["question", "tokens", "max_context"]


def clip_too_long(job, _):
    clip = job.parent / "data" / "train" / "000001.wav"
    soundfile.write(clip, [0.1] * 16_000 * 3, 16_000)
    return ["000001.wav", "3.0 s", "2 s", "truncate"]


def clip_too_short(job, _):
    clip = job.parent / "data" / "train" / "000001.wav"
    soundfile.write(clip, [0.1] * 160, 16_000)
    return ["000001.wav", "0.0100 s", "0.0201 s", "321 samples"]


def no_such_reward(job, _):
    with_key(job, "reward", "functions", {"acuracy": 1.0})
    return ["acuracy", "accuracy"]


def no_job_file(job, _):
    job.unlink()
    return ["job.yaml", "cannot be read"]


FAULTS = [
    missing_audio,
    broken_audio,
    unknown_key,
    answer_not_a_choice,
    empty_dataset,
    no_processor,
    another_architecture,
    group_of_one,
    prompt_too_long,
    clip_too_long,
    clip_too_short,
    no_such_reward,
    no_job_file,
]
IN_A_PROCESS = (missing_audio, unknown_key)
"""Faults for the real command, which takes seconds to start. The others are given to its code in this process."""


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_one_line_exit_code_2_and_nothing_written(job_file, tiny_folder, tmp_path, fault):
    job = job_file(tmp_path / "job")
    words = fault(job, tiny_folder)
    arguments = ["run", str(job), "--json", "--run-dir", str(tmp_path / "run")]
    if fault in IN_A_PROCESS:
        result = earshot(*arguments, timeout=60)
        code, stdout, stderr = result.returncode, result.stdout, result.stderr
    else:
        done = CliRunner().invoke(app, arguments)
        code, stdout, stderr = done.exit_code, done.stdout, done.stderr
    assert code == 2, stderr
    assert stdout == ""
    errors = [line for line in stderr.splitlines() if line.startswith("earshot: ")]
    assert len(errors) == 1, stderr
    assert "Traceback" not in stderr
    for word in words:
        assert word in errors[0]
    assert not (tmp_path / "run").exists()


def test_a_run_directory_in_use_is_not_overwritten(job_file, tmp_path):
    job = job_file(tmp_path / "job")
    used = tmp_path / "run"
    used.mkdir()
    (used / "metrics.jsonl").write_text("{}\n")
    result = earshot("run", job, "--run-dir", used, timeout=60)
    assert result.returncode == 2
    assert "--run-dir" in result.stderr
    assert [p.name for p in used.iterdir()] == ["metrics.jsonl"]


def test_dry_run_prints_the_plan_and_writes_nothing(job_file, tmp_path):
    job = job_file(tmp_path / "job")
    before = sorted(tmp_path.rglob("*"))
    result = earshot("run", job, "--dry-run", "--json", timeout=60)
    assert result.returncode == 0
    plan = json.loads(result.stdout)
    assert plan["parameters"] == TINY_SIZES.total
    assert (plan["rollout_workers"], plan["gpus"], plan["completions_per_step"]) == (2, 0, 24)
    # Parameters, two moments, gradients twice and the reference, of 4 bytes each; and activations.
    states, activations = 24 * TINY_SIZES.total / 2**30, plan["memory_parts_gib"]["activations"]
    assert activations > 0
    assert plan["memory_gib"]["learner_rank"] == pytest.approx(states + activations, rel=0.1, abs=0.01)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("arguments", [["run"], ["frobnicate"], ["run", "job.yaml", "--seed", "x"]])
def test_a_wrong_command_line_exits_with_2(arguments):
    assert earshot(*arguments, timeout=30).returncode == 2


def test_help_names_every_command():
    text = earshot("--help", timeout=30).stdout
    for command in ("run", "demo", "evaluate"):
        assert command in text
