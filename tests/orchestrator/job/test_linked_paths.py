"""The paths of a job are the user's own: links stay, since the names beside a link matter."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from orchestrator.cli.job_file import read_job
from orchestrator.job.spec_file import absolute, resolve_path
from orchestrator.questions.splits import read_split
from orchestrator.reproduce.rows import ROWS
from orchestrator.reproduce.runs import row_runs

ITEM = {"id": "q", "audio": "clips/1.wav", "question": "What?", "choices": ["a", "b"], "answer": "b"}
JOB = {"model": {"path": "builtin:tiny-qwen2-audio"}, "data": {"train": "train.jsonl"}, "steps": 1}


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """A folder as in a cache of the Hub, where the files are links to others; also the job file."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "rev"
    (snapshot / "clips").mkdir(parents=True)
    blobs.mkdir()
    (blobs / "a1").write_text(json.dumps(ITEM))
    (blobs / "b2").write_text(json.dumps(JOB))
    soundfile.write(blobs / "c3", np.zeros(8_000, np.float32), 16_000, format="WAV")
    for name, blob in {"train.jsonl": "../../blobs/a1", "job.yaml": "../../blobs/b2"}.items():
        (snapshot / name).symlink_to(blob)
    (snapshot / "clips" / "1.wav").symlink_to("../../../blobs/c3")
    return snapshot


def test_clips_are_found_beside_the_link(snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(snapshot)
    for name in (snapshot / "job.yaml", Path("job.yaml"), Path("../rev/job.yaml")):
        spec = read_job(name)
        assert spec.data.train == str(snapshot / "train.jsonl")
        (question,) = read_split(spec.data, "train").accepted()
        assert question.audio == str(snapshot / "clips" / "1.wav")


def test_the_recipes_of_a_table_may_be_links(snapshot: Path, tmp_path: Path) -> None:
    (snapshot / "zero_shot.yaml").symlink_to("job.yaml")
    (run,) = row_runs(ROWS[:1], 1, snapshot, tmp_path / "home", {})
    assert run.spec.data.train == str(snapshot / "train.jsonl")


def test_dots_are_left_out_as_the_system_reads_them(tmp_path: Path) -> None:
    (tmp_path / "real" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real/inner")
    (tmp_path / "real" / "file").write_text("")
    assert absolute(tmp_path / "real" / "inner" / ".." / "file") == tmp_path / "real" / "file"
    # The parent of a link to a folder is where the folder is.
    assert absolute(tmp_path / "link" / ".." / "file") == tmp_path / "real" / "file"
    assert absolute(tmp_path / "link" / "file") == tmp_path / "link" / "file"
    for odd in ("x" * 5000 + "/../y", "a\0b/../y", "/../y"):
        assert absolute(tmp_path / odd).name == "y"


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("builtin:synthetic", "builtin:synthetic"),
        ("s3://bucket/x.jsonl", "s3://bucket/x.jsonl"),
        ("hf:owner/name#test", "hf:owner/name#test"),
        ("hf:set#test", "hf:{base}/set#test"),
        ("hf:./set", "hf:{base}/set"),
        ("set#test", "{base}/set#test"),
        ("../x.jsonl", "{parent}/x.jsonl"),
        ("hf:" + "x" * 5000, "hf:" + "x" * 5000),
    ],
)
def test_what_a_path_of_a_job_becomes(tmp_path: Path, value: str, path: str) -> None:
    """A folder that is a copy of a dataset is looked for from the job file, as question files are."""
    (tmp_path / "job" / "set").mkdir(parents=True)
    base = tmp_path / "job"
    assert resolve_path(value, base) == path.format(base=base, parent=tmp_path)
