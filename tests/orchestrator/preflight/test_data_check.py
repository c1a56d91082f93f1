"""`earshot data check` lists every problem, and a job refuses the questions that have one."""

import json
import shutil
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import soundfile
import yaml
from support.shared_files import shared_file
from typer.testing import CliRunner

from audio_qa.dataset import DatasetError
from audio_qa.formats.registry import NAMES
from orchestrator.cli.main import app
from orchestrator.job.sections.data import DataFormat
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError, parse_spec, resolve_paths
from orchestrator.preflight.plan import plan
from orchestrator.questions.splits import read_split, refuse_overlap


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Write a job with four training and two held-out questions, each about its own clip."""
    for split, count in (("train", 4), ("test", 2)):
        items = []
        for i in range(count):
            sound = np.random.default_rng([count, i]).uniform(-0.5, 0.5, 8_000)
            (tmp_path / split).mkdir(exist_ok=True)
            soundfile.write(tmp_path / split / f"{i}.wav", sound, 16_000)
            item = {"id": f"q{i}", "audio": f"{split}/{i}.wav", "question": "What?", "choices": ["a", "b"]}
            items.append(item | {"answer": "a", "task": "sound"})
        write(tmp_path / f"{split}.jsonl", items)
    model = {"path": "builtin:tiny-qwen2-audio", "max_context": 512}
    job = {"model": model, "data": {"train": "train.jsonl", "evaluation": "test.jsonl"}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    return tmp_path


def write(path: Path, items: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(item) + "\n" for item in items))


def items_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def check(*arguments: object, code: int) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["data", "check", *map(str, arguments), "--json"])
    assert done.exit_code == code, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def job(home: Path) -> JobSpec:
    value = yaml.safe_load((home / "job.yaml").read_text())
    return resolve_paths(parse_spec(value, "job"), home)


def test_statistics_of_questions_without_problems(home):
    found = check(home / "job.yaml", code=0)
    assert found["accepted"] is True
    assert [found["splits"][s]["statistics"]["questions"] for s in ("train", "evaluation")] == [4, 2]
    assert found["splits"]["train"]["statistics"]["seconds_total"] == 2.0
    assert found["splits"]["train"]["statistics"]["by_task"] == {"sound": 4}
    planned = plan(job(home))
    assert planned["training_questions"] == 4
    assert planned["data"]["train"] == found["splits"]["train"]["source"] | {"questions": 4, "left_out": {}}


def test_every_problem_is_listed_and_the_job_is_refused(home):
    items = items_of(home / "train.jsonl")
    items[0]["answer"] = "c"
    items[1]["id"] = "q0"
    (home / "train" / "1.wav").write_text("no sound")
    (home / "train" / "2.wav").unlink()
    soundfile.write(home / "train" / "3.wav", np.zeros(40_000), 16_000)
    write(home / "train.jsonl", [*items, items[3]])
    shutil.copy(home / "train" / "3.wav", home / "test" / "0.wav")
    found = check(home / "job.yaml", code=2)
    kinds = [problem["kind"] for problem in found["splits"]["train"]["problems"]]
    assert kinds == ["answer", "unreadable_audio", "missing_audio", "duplicate_id", "too_long"]
    assert [p["kind"] for p in found["splits"]["evaluation"]["problems"]] == ["too_long"]
    assert [p["kind"] for p in found["overlap"]] == ["overlap"]
    assert found["refused"] == 7
    with pytest.raises(DatasetError, match=r"4 problems: .*line 1.*line 2.*line 3.*line 5"):
        plan(job(home))


def test_a_question_file_is_checked_by_itself(home):
    assert check(home / "train.jsonl", code=0)["refused"] == 0
    assert check(home / "train.jsonl", "--max-seconds", 0.2, code=2)["refused"] == 4
    columns = ["--column", "id=n", "--column", "audio=wav", "--column", "choices=x,y"]
    write(home / "odd.jsonl", [{"n": 1, "wav": "0.wav", "question": "?", "x": "a", "y": "b", "answer": 1}])
    found = check(home / "odd.jsonl", *columns, "--audio-root", home / "train", code=0)
    assert next(iter(found["splits"].values()))["source"]["format"] == "mapped"


def test_without_json_the_output_ends_with_the_counts(home):
    done = CliRunner().invoke(app, ["data", "check", str(home / "job.yaml")])
    assert (done.exit_code, done.stdout.strip().splitlines()[-1]) == (0, "No problem was found.")
    (home / "train" / "2.wav").unlink()
    done = CliRunner().invoke(app, ["data", "check", str(home / "job.yaml")])
    assert done.exit_code == 2
    assert "line 3: audio" in done.stdout
    assert done.stdout.strip().endswith("A job would refuse these questions: 1 problem. Accepted: 0.")
    assert "4 questions, 4 clips" in done.stdout
    write(home / "one.jsonl", items_of(home / "test.jsonl")[:1])
    assert "1 question, 1 clip\n" in CliRunner().invoke(app, ["data", "check", str(home / "one.jsonl")]).stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.jsonl"], "nowhere.jsonl': no such file"),
        (["nowhere.yaml"], "the job file cannot be read"),
        (
            ["train"],
            "train': is a folder; name a question file, or a dataset folder that save_to_disk or the Hub wrote",
        ),
        (["/dev/null"], "'/dev/null': is not a file"),
        (["empty.json"], "holds no question; write a JSON array, or one JSON object per line"),
        (["train.jsonl", "--format", "mmua"], "Invalid value for '--format': 'mmua' is not one of 'auto', 'earshot'"),
        (["train.jsonl", "--column", "x"], "write KEY=COLUMN"),
    ],
)
def test_bad_input_is_one_line(home, monkeypatch, arguments, words):
    (home / "empty.json").write_text("[]")
    monkeypatch.chdir(home)
    done = CliRunner().invoke(app, ["data", "check", *arguments])
    assert (done.exit_code, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr


def test_contaminated_data_is_refused_unless_nothing_is_trained(home):
    shutil.copy(home / "train" / "1.wav", home / "test" / "1.wav")
    spec = job(home)
    with pytest.raises(DatasetError, match=r"held-out question test:1.* question train:1"):
        plan(spec)
    train, held_out = (read_split(spec.data, split).accepted() for split in ("train", "evaluation"))
    refuse_overlap(spec.model_copy(update={"steps": 0}), train, held_out)


def test_missing_clips_of_avqa_are_listed_and_accepted(home):
    item = {"question_text": "What?", "multi_choice": ["a", "b"], "answer": 0}
    write(home / "avqa.jsonl", [item | {"id": i, "audio_path": f"train/{i}.wav"} for i in (0, 9)])
    found = check(home / "avqa.jsonl", code=0)
    (split,) = found["splits"].values()
    assert [(p["kind"], p["refused"]) for p in split["problems"]] == [("missing_audio", False)]
    assert split["statistics"]["questions"] == 2


def test_the_real_file_without_its_clips_is_refused_with_all_of_them():
    found = check(shared_file("mmau-test-mini.json"), code=2)
    assert found["refused"] == 1000
    (split,) = found["splits"].values()
    assert split["statistics"]["by_choices"] == {"2": 27, "4": 948, "5": 24, "8": 1}
    assert split["statistics"]["repeated_choices"] == 27


def test_a_job_file_accepts_every_format():
    assert set(get_args(DataFormat)) == set(NAMES)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"format": "mmua"}, "data.format"),
        ({"columns": {"anwser": "x"}}, "did you mean 'answer'"),
        ({"columns": {"answer": ["x", "y"]}}, "one column"),
    ],
)
def test_a_wrong_format_in_a_job_file_is_named(data, words):
    with pytest.raises(SpecError, match=words):
        parse_spec({"model": {"path": "m"}, "data": {"train": "t.jsonl"} | data}, "job")


def test_relative_paths_start_at_the_job_files_folder():
    data = {"train": "s3://b/t.jsonl", "evaluation": "hf:o/n#test", "audio_root": "clips"}
    spec = resolve_paths(parse_spec({"model": {"path": "m"}, "data": data}, "job"), Path("/jobs"))
    assert (spec.data.train, spec.data.evaluation) == ("s3://b/t.jsonl", "hf:o/n#test")
    assert (spec.data.audio_root, spec.data.evaluation_audio_root) == ("/jobs/clips", None)


def test_a_file_without_answers_is_not_refused_and_it_is_said_what_it_is_for(home: Path):
    hidden = [{key: value for key, value in item.items() if key != "answer"} for item in items_of(home / "test.jsonl")]
    write(home / "test.jsonl", hidden)
    found = check(home / "test.jsonl", code=0)
    assert [(s["labelled"], s["statistics"]["questions"]) for s in found["splits"].values()] == [(False, 2)]
    shown = CliRunner().invoke(app, ["data", "check", str(home / "test.jsonl")]).output
    assert "The questions have no answers, so predictions cannot be scored: `earshot evaluate --predictions" in shown
    # A job that trains cannot report an accuracy on them, and one that evaluates writes their predictions.
    refused = CliRunner().invoke(app, ["data", "check", str(home / "job.yaml")])
    assert (refused.exit_code, "so a job that trains has no accuracy to report" in refused.output) == (2, True)
    value = yaml.safe_load((home / "job.yaml").read_text())
    (home / "job.yaml").write_text(yaml.safe_dump(value | {"method": "evaluate", "data": {"evaluation": "test.jsonl"}}))
    assert check(home / "job.yaml", code=0)["splits"]["evaluation"]["labelled"] is False
    # One answer that is missing among others is a problem.
    write(home / "test.jsonl", [hidden[0] | {"answer": "a"}, hidden[1]])
    assert check(home / "test.jsonl", code=2)["refused"] == 1
