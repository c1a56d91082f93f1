"""Question files and clips at URLs are fetched once and completely."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audio_qa.dataset import DatasetError
from audio_qa.files.reader import read_questions
from audio_qa.files.remote import FetchError, fetch, joined, parent
from audio_qa.files.rows import Rows
from audio_qa.scoring.rules import rule_of
from audio_qa.scoring.submission import check_submission, submission_name

fsspec = pytest.importorskip("fsspec", reason="URLs need the extra 'remote'")


def wav() -> bytes:
    held = io.BytesIO()
    soundfile.write(held, np.zeros(8_000, np.float32), 16_000, format="WAV")
    return held.getvalue()


@pytest.fixture
def store():
    """A store with URLs, in this process."""
    made = fsspec.filesystem("memory")
    made.store.clear()
    good = {"question": "What?", "choices": ["a", "b"], "answer": "a"}
    items = [good | {"id": "q1", "audio": "clips/1.wav"}, good | {"id": "q2", "audio": "clips/2.wav"}]
    made.pipe("/data/train.jsonl", "\n".join(map(json.dumps, items)).encode())
    made.pipe("/data/clips/1.wav", wav())
    return made


def test_a_question_file_and_its_clips_are_fetched_once(store, tmp_path):
    store.pipe("/data/clips/2.wav", wav())
    first = read_questions("memory://data/train.jsonl", cache=tmp_path)
    assert [q.key for q in first.accepted()] == ["train:0", "train:1"]
    assert all(Path(q.audio).read_bytes() == wav() for q in first.questions)
    assert all(Path(q.audio).is_relative_to(tmp_path) for q in first.questions)
    assert not list(tmp_path.rglob("*.part"))
    store.store.clear()
    assert read_questions("memory://data/train.jsonl", cache=tmp_path) == first


def test_a_question_file_that_changes_at_its_source_is_fetched_again(store, tmp_path, monkeypatch, caplog):
    store.pipe("/data/clips/2.wav", wav())
    assert read_questions("memory://data/train.jsonl", cache=tmp_path).questions[1].answer == "a"
    other = store.cat("/data/train.jsonl").replace(b'"answer": "a"', b'"answer": "b"')
    store.pipe("/data/train.jsonl", other)
    assert [q.answer for q in read_questions("memory://data/train.jsonl", cache=tmp_path).questions] == ["b", "b"]
    opened: list[str] = []
    really = fsspec.open
    monkeypatch.setattr(fsspec, "open", lambda url, mode: opened.append(url) or really(url, mode))
    read_questions("memory://data/train.jsonl", cache=tmp_path)
    assert opened == []
    assert not caplog.messages
    store.store.clear()
    assert [q.answer for q in read_questions("memory://data/train.jsonl", cache=tmp_path).questions] == ["b", "b"]
    assert "cannot be compared with its source" in caplog.text


def test_a_clip_that_is_not_there_is_a_problem_of_its_question(store, tmp_path):
    found = read_questions("memory://data/train.jsonl", cache=tmp_path)
    assert [q.id for q in found.questions] == ["q1"]
    with pytest.raises(DatasetError, match=r"line 2: audio 'memory://data/clips/2\.wav': cannot be fetched"):
        found.accepted()


def test_local_questions_may_have_clips_at_a_url(store, tmp_path):
    path = tmp_path / "local.jsonl"
    path.write_bytes(store.cat("/data/train.jsonl").splitlines()[0])
    (question,) = read_questions(path, audio_root="memory://data", cache=tmp_path / "cache").accepted()
    assert Path(question.audio).read_bytes() == wav()


def test_an_interrupted_fetch_leaves_no_file(store, tmp_path, monkeypatch):
    class Torn(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise OSError("connection reset")
            return super().read(8)

    monkeypatch.setattr(fsspec, "open", lambda *_: Torn(b"0123456789"))
    with pytest.raises(FetchError, match="connection reset"):
        fetch("memory://data/clips/1.wav", tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_without_a_cache_urls_are_refused(store):
    with pytest.raises(DatasetError, match="URLs are not read here"):
        read_questions("memory://data/train.jsonl")


def test_a_file_that_is_not_there_is_named(store, tmp_path):
    with pytest.raises(DatasetError, match=r"memory://data/nowhere\.jsonl.*cannot be fetched"):
        read_questions("memory://data/nowhere.jsonl", cache=tmp_path)


@pytest.mark.parametrize(
    ("base", "path", "whole"),
    [
        ("/data", "./clips/1.wav", "/data/clips/1.wav"),
        ("/data", "/other/1.wav", "/other/1.wav"),
        ("/data", "s3://bucket/1.wav", "s3://bucket/1.wav"),
        ("s3://bucket/data", "./clips/1.wav", "s3://bucket/data/clips/1.wav"),
        ("s3://bucket/data", "/clips/1.wav", "s3://bucket/data/clips/1.wav"),
    ],
)
def test_a_clips_path_starts_at_its_base(base, path, whole):
    assert joined(base, path) == whole


def test_the_folder_of_a_url():
    assert parent("https://host/data/train.jsonl") == "https://host/data"


def test_sound_that_a_dataset_holds_is_written_once(tmp_path):
    rows = [{"id": i, "audio": {"bytes": wav(), "path": "x.wav"}, "label": "a"} for i in range(2)]
    first, second = Rows("hf:o/n#test", {}, tmp_path, keep_sound=True).items(rows)
    assert first.clip("audio") == second.clip("audio")
    assert Path(first.clip("audio")).read_bytes() == wav()
    assert second.place == "'hf:o/n#test', row 2"
    rows_without_sound = [{"audio": {"bytes": None, "path": "/clips/1.wav"}}]
    (kept,) = Rows("d", {}, None, keep_sound=True).items(rows_without_sound)
    assert kept.record == {"audio": "/clips/1.wav"}
    with pytest.raises(DatasetError, match="no cache directory"):
        list(Rows("d", {}, None, keep_sound=True).items(rows))


def test_a_saved_dataset_is_read_by_its_columns(tmp_path):
    datasets = pytest.importorskip("datasets", reason="datasets of Hugging Face's need the extra 'huggingface'")
    (tmp_path / "1.wav").write_bytes(wav())
    made = datasets.Dataset.from_dict(
        {"wav": [str(tmp_path / "1.wav")], "q": ["What?"], "options": [["a", "b"]], "label": [1]}
    )
    datasets.DatasetDict({"test": made}).save_to_disk(tmp_path / "saved")
    columns = {"audio": "wav", "question": "q", "choices": "options", "answer": "label"}
    (question,) = read_questions(f"{tmp_path}/saved#test", columns=columns).accepted()
    assert (question.answer, question.audio) == ("b", str(tmp_path / "1.wav"))
    with pytest.raises(DatasetError, match="no split 'train'"):
        read_questions(f"{tmp_path}/saved#train", columns=columns)


def test_a_saved_dataset_that_holds_its_sound_is_read(tmp_path):
    """Datasets with an `Audio` column, as on a hub: several splits, the columns of a published format."""
    datasets = pytest.importorskip("datasets", reason="datasets of Hugging Face's need the extra 'huggingface'")
    for i, level in enumerate((0.1, 0.2)):
        soundfile.write(tmp_path / f"{i}.wav", np.full(8_000, level, np.float32), 16_000)
    rows = {
        "id": ["r0", "r1"],
        "audio_path": [str(tmp_path / "0.wav"), str(tmp_path / "1.wav")],
        "question": ["What?"] * 2,
        "choices": [["a", "b"], ["a", "b", "c"]],
        "answer": ["a", "c"],
        "modality": ["sound", "music"],
    }
    made = datasets.Dataset.from_dict(rows).cast_column("audio_path", datasets.Audio(sampling_rate=8_000))
    # The dataset contains the bytes: it is complete without the original files.
    made = made.map(lambda row: row, features=made.features, writer_batch_size=1)
    datasets.DatasetDict({"test": made, "other": made.select([0])}).save_to_disk(tmp_path / "saved")
    sounds = [(tmp_path / f"{i}.wav").read_bytes() for i in (0, 1)]
    location = f"{tmp_path}/saved#test"
    found = read_questions(location, cache=tmp_path / "cache")
    assert found.source.format == "mmar"
    assert [(q.id, q.answer, q.task) for q in found.accepted()] == [("r0", "a", "sound"), ("r1", "c", "music")]
    # The original bytes, not decoded, and not resampled to the rate of the column.
    assert [Path(q.audio).read_bytes() for q in found.questions] == sounds
    assert set(found.seconds.values()) == {0.5}
    assert read_questions(location, cache=tmp_path / "cache").source == found.source
    with pytest.raises(DatasetError, match="has several splits; name one"):
        read_questions(f"{tmp_path}/saved", cache=tmp_path / "cache")


def test_a_dataset_that_is_not_there_is_named(tmp_path):
    pytest.importorskip("datasets", reason="datasets of Hugging Face's need the extra 'huggingface'")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="is a folder; name a question file, or a dataset folder that save_to_disk"):
        read_questions(tmp_path / "empty")
    (tmp_path / "empty" / "state.json").write_text("{}")
    with pytest.raises(DatasetError, match="cannot be loaded"):
        read_questions(f"{tmp_path}/empty#test", cache=tmp_path / "cache")


def test_without_the_library_a_dataset_or_parquet_says_what_to_install(tmp_path, monkeypatch):
    for name in ("datasets", "pyarrow"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "test.parquet").write_bytes(b"PAR1")
    for location in ("hf:owner/name#test", str(tmp_path / "test.parquet")):
        with pytest.raises(DatasetError, match="extra 'huggingface'"):
            read_questions(location)
    with pytest.raises(DatasetError, match="extra 'huggingface'"):
        check_submission(tmp_path / "out.parquet")
    assert submission_name("hf:owner/name#test", rule_of("mmau_pro")) == "predictions.json"
