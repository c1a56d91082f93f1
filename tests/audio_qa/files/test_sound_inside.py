"""Tables that contain their clips, and folders as the Hub has them, are read the same from Parquet and by `hf:`."""

import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from audio_qa.dataset import DatasetError
from audio_qa.files.parquet import read_parquet
from audio_qa.files.reader import read_questions

pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs the extra 'huggingface'")


def wav(level: float) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.full(8_000, level, np.float32), 16_000, format="WAV")
    return buffer.getvalue()


SOUNDS = [wav(0.1), wav(0.2)]
ROWS: list[dict[str, Any]] = [
    {
        "id": f"r{i}",
        "audio": {"bytes": SOUNDS[i], "path": f"{i}.wav"},
        "question": "What?",
        "choices": ["yes", "no"],
        "answer": "no",
    }
    for i in range(2)
]


def write(path: Path, rows: list[dict[str, Any]], metadata: dict[str, Any] | None = None, **options: Any) -> Path:
    import pyarrow.parquet as files

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(rows)
    if metadata is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps(metadata)})
    files.write_table(table, path, **options)
    return path


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A folder as the Hub has it: a split in Parquet with its clips inside."""
    write(tmp_path / "set" / "data" / "test-00000-of-00001.parquet", ROWS)
    return tmp_path / "set"


def test_both_entrances_read_the_same(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets", reason="datasets of Hugging Face's need the extra 'huggingface'")
    monkeypatch.chdir(tmp_path)
    cache = tmp_path / "cache"
    entrances = (
        str(dataset / "data" / "test-00000-of-00001.parquet"),
        f"hf:{dataset}#test",
        "hf:set#test",
        str(dataset),
    )
    read = [read_questions(place, cache=cache) for place in entrances]
    for found in read:
        assert found.source.format == "earshot"
        assert [Path(question.audio).read_bytes() for question in found.accepted()] == SOUNDS
        assert found.records == tuple(row | {"audio": f"{i}.wav"} for i, row in enumerate(ROWS))
        assert set(found.seconds.values()) == {0.5}
        assert found.inside == {question.audio for question in found.questions}
    assert len({question.audio for found in read for question in found.questions}) == 2
    # The digest of a dataset does not depend on the folder of the cache.
    again = read_questions(f"hf:{dataset}#test", cache=tmp_path / "other")
    assert again.source.sha256 == read[1].source.sha256


def test_clips_that_are_not_checked_are_not_written(dataset: Path, tmp_path: Path) -> None:
    path = dataset / "data" / "test-00000-of-00001.parquet"
    found = read_questions(path, cache=tmp_path / "cache", check_audio=False)
    assert len(found.accepted()) == 2
    assert not (tmp_path / "cache").exists()
    assert len(read_questions(path, check_audio=False).accepted()) == 2  # the service has no cache
    with pytest.raises(DatasetError, match="contains its sound itself, and there is no cache"):
        read_questions(path)


def test_a_clip_may_be_a_path_bytes_alone_or_in_a_list_of_one(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "1.wav").write_bytes(SOUNDS[0])
    for sound, content in (
        ({"bytes": None, "path": "clips/1.wav"}, SOUNDS[0]),
        (SOUNDS[1], SOUNDS[1]),
        ({"bytes": SOUNDS[1], "path": None}, SOUNDS[1]),
        ({"bytes": SOUNDS[1], "path": "../../x.wav/../\0" + "y" * 300}, SOUNDS[1]),
        ([{"bytes": SOUNDS[1], "path": "x.flac"}], SOUNDS[1]),
        (["clips/1.wav"], SOUNDS[0]),
    ):
        path = write(tmp_path / "t.parquet", [ROWS[0] | {"audio": sound}])
        (question,) = read_questions(path, columns={"audio": "audio"}, cache=tmp_path / "cache").accepted()
        assert Path(question.audio).read_bytes() == content
    for wrong in ([], [{"bytes": b"x", "path": "x"}, {"bytes": b"x", "path": "x"}], {"bytes": None, "path": None}):
        path = write(tmp_path / "t.parquet", [ROWS[0] | {"audio": wrong}])
        (problem,) = read_questions(path, columns={"audio": "audio"}, cache=tmp_path / "cache").problems
        assert "'audio'" in str(problem)


def test_the_numbers_of_class_labels_are_their_names_and_no_indices(tmp_path: Path) -> None:
    """The classes of a dataset are in an order of their own, whatever the choices of a question are."""
    names = {"names": ["cat", "dog"], "_type": "ClassLabel"}
    row = {"audio": "1.wav", "question": "What?", "choices": ["dog", "cat"], "label": 0}
    path = write(tmp_path / "t.parquet", [row, row | {"label": -1}], {"info": {"features": {"label": names}}})
    found = read_questions(path, columns={"answer": "label"}, check_audio=False)
    assert [question.answer for question in found.questions] == ["cat"]
    assert "'label' is null" in str(found.problems[0])
    path = write(tmp_path / "t.parquet", [row])
    (question,) = read_questions(path, columns={"answer": "label"}, check_audio=False).accepted()
    assert question.answer == "dog"


def test_the_nulls_of_a_table_are_missing_values_and_ids_may_be_numbers(tmp_path: Path) -> None:
    row = {"id": 1, "audio": "1.wav", "question": "What?", "choices": ["a", "b"], "answer": "b", "task": None}
    found = read_questions(write(tmp_path / "t", [row, row | {"id": 2, "task": "sound"}]), check_audio=False)
    assert found.source.format == "earshot"
    assert [(question.id, question.task) for question in found.accepted()] == [("1", ""), ("2", "sound")]
    found = read_questions(write(tmp_path / "t", [row | {"licence": "CC0"}]), check_audio=False)
    assert (found.source.format, len(found.accepted())) == ("mapped", 1)


@pytest.mark.parametrize("location", ["{0}", "hf:{0}", "hf:{0}#train", "{0}/metadata.jsonl", "{0}/metadata.csv"])
def test_an_audio_folder_of_the_hub(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for i, sound in enumerate(SOUNDS):
        (folder / f"{i}.wav").write_bytes(sound)
    kept = {"id": "r0", "question": "What?", "answer": "no"}
    items = [kept | {"id": f"r{i}", "file_name": f"{i}.wav", "choices": ["yes", "no"]} for i in range(2)]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    rows = "".join(f'r{i},What?,{i}.wav,"[""yes"", ""no""]",no\n' for i in range(2))
    (folder / "metadata.csv").write_text("id,question,file_name,choices,answer\n" + rows)
    found = read_questions(location.format(folder))
    assert [(question.id, question.answer) for question in found.accepted()] == [("r0", "no"), ("r1", "no")]
    assert [question.audio for question in found.questions] == [str(folder / "0.wav"), str(folder / "1.wav")]


def test_an_audio_folder_with_splits_needs_the_name_of_one(tmp_path: Path) -> None:
    for split in ("test", "train"):
        (tmp_path / split).mkdir()
        item = ROWS[0] | {"audio": None, "file_name": "0.wav", "id": split}
        del item["audio"]
        (tmp_path / split / "metadata.jsonl").write_text(json.dumps(item))
    (question,) = read_questions(f"{tmp_path}#test", check_audio=False).accepted()
    assert (question.id, question.audio) == ("test", str(tmp_path / "test" / "0.wav"))
    for location, words in ((str(tmp_path), "several splits"), (f"{tmp_path}#dev", "no split 'dev'")):
        with pytest.raises(DatasetError, match=f"{words}; name one of test, train"):
            read_questions(location)


def test_a_folder_of_clips_alone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "1.wav").write_bytes(SOUNDS[0])
    with pytest.raises(DatasetError, match="is a folder; name a question file, or a dataset folder"):
        read_questions(tmp_path)


def test_a_table_is_not_in_memory_with_all_of_its_sound(tmp_path: Path) -> None:
    """32 MiB of sound in one row group are read in less than half of that."""
    sound = {"bytes": bytes(2**18), "path": "x.wav"}
    path = write(tmp_path / "t.parquet", [ROWS[0] | {"id": str(i), "audio": sound} for i in range(128)])
    tracemalloc.start()
    before, largest = pyarrow.total_allocated_bytes(), 0
    for item in read_parquet(path, None, keep_sound=False):
        assert item.record["audio"] == "x.wav"
        largest = max(largest, pyarrow.total_allocated_bytes() - before + tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert 0 < largest < 2**24
