"""Clips that a model cannot hear are named before a job starts, and damage is found before it is heard."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from typer.testing import CliRunner

from audio_qa.audio import SAMPLE_RATE, clip_samples, load_audio, probe
from audio_qa.dataset import DatasetError
from audio_qa.families import FACTS
from audio_qa.files import clips as clips_module
from audio_qa.files import memory as memory_module
from orchestrator.cli.main import app
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import parse_spec, resolve_paths
from orchestrator.preflight.plan import plan


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EARSHOT_CACHE", str(tmp_path / "cache"))


def clip(path: Path, samples: int, rate: int = SAMPLE_RATE) -> Path:
    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, np.random.default_rng(samples).uniform(-0.5, 0.5, samples), rate)
    return path


def write_job(home: Path, *clips: Path, **model: Any) -> Path:
    items = [
        {"id": f"q{i}", "audio": str(path), "question": "What?", "choices": ["a", "b"], "answer": "a"}
        for i, path in enumerate(clips)
    ]
    (home / "train.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    job = {"model": {"path": "builtin:tiny-qwen2-audio", "max_context": 512} | model, "data": {"train": "train.jsonl"}}
    (home / "job.yaml").write_text(yaml.safe_dump(job))
    return home / "job.yaml"


def spec(job: Path) -> JobSpec:
    return resolve_paths(parse_spec(yaml.safe_load(job.read_text()), "job"), job.parent)


def check(*arguments: object, code: int) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["data", "check", *map(str, arguments), "--json"])
    assert done.exit_code == code, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def problems(found: dict[str, Any]) -> list[tuple[str, str]]:
    (split,) = found["splits"].values()
    return [(problem["kind"], problem["question_id"]) for problem in split["problems"]]


@pytest.mark.parametrize("model_type", FACTS)
def test_the_least_length_is_the_first_that_gives_a_token(model_type):
    facts = FACTS[model_type]
    least = facts.least_samples(160)
    assert [bool(facts.clip_tokens(n, 160)) for n in (least - 1, least)] == [False, True]
    assert facts.too_short(least, 160) == ""
    assert str(least) in facts.too_short(least - 1, 160)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_the_check_counts_samples_as_the_resampler_does(tmp_path, rate):
    for frames in range(rate // 50, rate // 50 + 20):
        path = clip(tmp_path / "clip.wav", frames, rate)
        heard = load_audio(path, max_seconds=None, too_long="refuse")
        assert clip_samples(probe(path).seconds) == clip_samples(heard.seconds) == len(heard.samples)


def test_a_plan_and_a_check_refuse_clips_of_ten_milliseconds(tmp_path):
    job = write_job(
        tmp_path, clip(tmp_path / "a.wav", 160), clip(tmp_path / "b.wav", 321), clip(tmp_path / "c.wav", 320)
    )
    with pytest.raises(
        DatasetError, match=r"2 problems: question train:0: .*a\.wav' has 0\.0100 s .*0\.0201 s.*c\.wav"
    ):
        plan(spec(job))
    # Without a model, the limit is that of the family that takes the shortest clips.
    for argument, short, least in ((job, ["q0", "q2"], 321), (tmp_path / "train.jsonl", ["q0"], 161)):
        found = check(argument, code=2)
        assert problems(found) == [("too_short", question) for question in short]
        assert found["min_seconds"] == pytest.approx(least / 16_000, abs=1e-6)


def test_a_plan_refuses_clips_that_are_too_long(tmp_path):
    job = write_job(tmp_path, clip(tmp_path / "a.wav", 40_000))
    with pytest.raises(DatasetError, match=r"question train:0: the clip .*a\.wav' has 2\.5 s and the model hears 2 s"):
        plan(spec(job))
    assert plan(spec(write_job(tmp_path, tmp_path / "a.wav", too_long="truncate")))["training_questions"] == 1


def test_a_model_sets_the_limits_of_a_question_file(tmp_path):
    folder = "builtin:tiny-qwen2-audio"
    write_job(tmp_path, clip(tmp_path / "a.wav", 40_000))
    assert problems(check(tmp_path / "train.jsonl", code=0)) == []
    assert problems(check(tmp_path / "train.jsonl", "--model", folder, code=2)) == [("too_long", "q0")]
    done = CliRunner().invoke(app, ["data", "check", str(tmp_path / "job.yaml"), "--model", folder])
    assert (done.exit_code, "the job file names the model" in done.stderr) == (2, True)


def damage_the_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


def test_decoding_finds_what_a_header_cannot_show(tmp_path, monkeypatch):
    monkeypatch.setattr(memory_module, "_YOUNG_NS", -(10**18))
    whole, damaged = clip(tmp_path / "a.flac", 16_000), clip(tmp_path / "b.flac", 16_001)
    damage_the_middle(damaged)
    not_a_number = tmp_path / "c.wav"
    soundfile.write(not_a_number, [0.1] * 8_000 + [np.nan], 16_000, subtype="FLOAT")
    job = write_job(tmp_path, whole, damaged, not_a_number)
    assert problems(check(job, code=0)) == []
    found = check(job, "--decode", code=2)
    assert problems(found) == [("unreadable_audio", "q1"), ("unreadable_audio", "q2")]

    decoded: list[str] = []
    monkeypatch.setattr(clips_module, "probe", _noting(clips_module.probe, decoded))
    check(job, "--decode", code=2)
    assert [Path(path).name for path in decoded] == ["b.flac", "c.wav"], "what is sound is not decoded again"
    decoded.clear()
    assert plan(spec(write_job(tmp_path, whole)))["training_questions"] == 1
    assert decoded == [], "a plan uses what --decode found out"


def _noting(probe: Any, seen: list[str]) -> Any:
    def noted(path: str, *, decode: bool = False) -> Any:
        seen.append(path)
        return probe(path, decode=decode)

    return noted
