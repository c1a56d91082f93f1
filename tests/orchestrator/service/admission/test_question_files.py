"""Question files of submitted jobs: links, clips inside the file, and clips that lead elsewhere."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from support.runs.admitting import admitted, allowing

from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError

ITEM = {"id": "q", "audio": "clips/1.wav", "question": "What?", "choices": ["a", "b"], "answer": "b"}


def admit(root: Path, train: Path, data_dir: Path | None = None, **data: Any) -> JobSpec:
    spec = JobSpec.model_validate(
        {
            "model": {"path": "builtin:tiny-qwen2-audio"},
            "data": {"train": str(train), "evaluation": "builtin:synthetic"} | data,
        }
    )
    return admitted(spec, allowing(root, data_dir=data_dir)).spec


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a cache of the Hub, where files are links to others."""
    blobs, snapshot = tmp_path / "root" / "blobs", tmp_path / "root" / "snapshots"
    (snapshot / "clips").mkdir(parents=True)
    blobs.mkdir()
    (blobs / "a1").write_text(json.dumps(ITEM))
    soundfile.write(blobs / "c3", np.zeros(8_000, np.float32), 16_000, format="WAV")
    (snapshot / "train.jsonl").symlink_to("../blobs/a1")
    (snapshot / "clips" / "1.wav").symlink_to("../../blobs/c3")
    return tmp_path / "root"


def test_a_linked_question_file_keeps_its_name_and_its_clips(root: Path) -> None:
    named = root / "snapshots" / "train.jsonl"
    assert admit(root, named).data.train == str(named)


def test_clips_and_files_that_lead_outside_are_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.wav").write_bytes((root / "blobs" / "c3").read_bytes())
    clip = root / "snapshots" / "clips" / "1.wav"
    clip.unlink()
    clip.symlink_to(tmp_path / "secret.wav")
    with pytest.raises(SpecError, match=r"data\.train: .*clips/1\.wav' is not under the folders"):
        admit(root, root / "snapshots" / "train.jsonl")
    for odd in ("../../secret.wav", str(tmp_path / "secret.wav")):
        (root / "odd.jsonl").write_text(json.dumps(ITEM | {"audio": odd}))
        with pytest.raises(SpecError, match="is not under the folders"):
            admit(root, root / "odd.jsonl")
    (tmp_path / "out.jsonl").write_text(json.dumps(ITEM))
    (root / "out.jsonl").symlink_to(tmp_path / "out.jsonl")
    with pytest.raises(SpecError, match="is not under the folders"):
        admit(root, root / "out.jsonl")


def test_a_link_to_the_services_own_data_is_refused(root: Path) -> None:
    own = root / "service"
    own.mkdir()
    (own / "clips").symlink_to(root / "snapshots" / "clips")
    (own / "train.jsonl").write_text(json.dumps(ITEM))
    (root / "clips").symlink_to(root / "snapshots" / "clips")
    (root / "mine.jsonl").symlink_to(own / "train.jsonl")
    assert admit(root, root / "mine.jsonl").data.train == str(root / "mine.jsonl")
    with pytest.raises(SpecError, match="is the service's own"):
        admit(root, root / "mine.jsonl", data_dir=own)


def test_a_table_that_contains_its_clips_is_admit(root: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs the extra 'huggingface'")
    import pyarrow.parquet as files

    sound = {"bytes": (root / "blobs" / "c3").read_bytes(), "path": "/etc/passwd"}
    files.write_table(pyarrow.Table.from_pylist([ITEM | {"audio": sound}]), root / "TRAIN")
    assert admit(root, root / "TRAIN").data.train == str(root / "TRAIN")
    # Without sound, the clip is the file that is named.
    files.write_table(pyarrow.Table.from_pylist([ITEM | {"audio": sound | {"bytes": None}}]), root / "TRAIN")
    with pytest.raises(SpecError, match="'/etc/passwd' is not under the folders"):
        admit(root, root / "TRAIN")
