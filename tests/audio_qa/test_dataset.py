"""Reading and writing datasets: errors are found immediately and named with their line."""

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audio_qa.dataset import DatasetError, read_jsonl, write_jsonl
from audio_qa.question import Question


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory with one second of sound in clips/a.wav."""
    (tmp_path / "clips").mkdir()
    soundfile.write(tmp_path / "clips" / "a.wav", np.zeros(16_000, np.float32), 16_000)
    return tmp_path


def record(**changes: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "id": "q1",
        "audio": "clips/a.wav",
        "question": "What is heard?",
        "choices": ["a dog", "a cat"],
        "answer": "a dog",
    }
    return {key: value for key, value in (whole | changes).items() if value is not ...}


def write(home: Path, *records: Any) -> Path:
    path = home / "train.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


def test_a_question_is_read_whole(home: Path) -> None:
    path = write(home, record(), record(id="q2", task="sound", category="source", difficulty="easy"))
    audio = str(home / "clips" / "a.wav")
    choices = ("a dog", "a cat")
    assert read_jsonl(path) == [
        Question("train", 0, "q1", audio, "What is heard?", choices, "a dog"),
        Question("train", 1, "q2", audio, "What is heard?", choices, "a dog", "sound", "source", "easy"),
    ]


def test_the_name_can_be_given_and_paths_be_absolute(home: Path) -> None:
    path = write(home, record(audio=str(home / "clips" / "a.wav")))
    (question,) = read_jsonl(path, name="AVQA")
    assert question.key == "AVQA:0"
    assert question.audio == str(home / "clips" / "a.wav")


def test_paths_are_absolute_however_the_dataset_was_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home, record())
    monkeypatch.chdir(home)
    (question,) = read_jsonl("train.jsonl")
    assert question.audio == str(home / "clips" / "a.wav")


def test_blank_lines_a_byte_order_mark_and_odd_line_separators_do_no_harm(home: Path) -> None:
    path = home / "train.jsonl"
    second = json.dumps(record(id="q2", question="one\u2028two"), ensure_ascii=False)
    path.write_bytes(f"\ufeff{json.dumps(record())}\r\n\n  \n{second}".encode())
    questions = read_jsonl(path)
    assert [(q.index, q.text) for q in questions] == [(0, "What is heard?"), (1, "one\u2028two")]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"answer": ...}, "missing key 'answer'"),
        ({"id": ..., "audio": ...}, "missing key 'id', 'audio'"),
        ({"anwser": "a dog"}, "unknown key 'anwser'.*'answer'"),
        ({"id": 7}, "'id' is a number"),
        ({"id": ""}, "'id' is blank"),
        ({"audio": None}, "'audio' is null"),
        ({"question": ["x"]}, "'question' is a list"),
        ({"question": "  "}, "'question' is blank"),
        ({"question": "\ud800"}, "surrogate"),
        ({"choices": "a dog"}, "'choices' is a string"),
        ({"choices": {"a": "b"}}, "'choices' is an object"),
        ({"choices": ["a dog", 2]}, "a choice is a number"),
        ({"choices": ["a dog", True]}, "a choice is a truth value"),
        ({"choices": ["a dog", ""]}, "a choice is blank"),
        ({"choices": ["a dog"]}, "at least 2"),
        ({"choices": []}, "at least 2"),
        ({"choices": ["a dog", "a cat", "a dog"]}, "'a dog' is listed twice"),
        ({"choices": ["a dog", "caf\u00e9", "cafe\u0301"]}, "is listed twice"),
        ({"answer": "A dog"}, "'A dog' is not among the choices; the nearest is 'a dog'"),
        ({"answer": 0}, "'answer' is a number"),
        ({"task": 3}, "'task' is a number"),
        ({"difficulty": None}, "'difficulty' is null"),
        ({"id": "q0"}, "'q0' is already used in line 1"),
        ({"audio": "clips/b.wav"}, "clips/b.wav.*no such file"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(home: Path, changes: dict[str, Any], problem: str) -> None:
    path = write(home, record(id="q0"), record(**changes))
    with pytest.raises(DatasetError, match=problem) as caught:
        read_jsonl(path)
    assert f"{str(path)!r}, line 2: " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{'id': 1}", "not JSON"),
        (b'{"id": "q1"', "not JSON"),
        (b"[1]", "a list, not an object"),
        (b"null", "null, not an object"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[" * 100_000, "not JSON"),
        (b"1" * 10_000, "not JSON"),
    ],
)
def test_a_line_that_is_not_an_object_is_named(home: Path, line: bytes, problem: str) -> None:
    path = home / "train.jsonl"
    path.write_bytes(json.dumps(record()).encode() + b"\n\n" + line + b"\n")
    with pytest.raises(DatasetError, match=problem) as caught:
        read_jsonl(path)
    assert "line 3" in str(caught.value)


def test_a_missing_and_an_empty_dataset_are_refused(home: Path) -> None:
    with pytest.raises(DatasetError, match="no such file"):
        read_jsonl(home / "nowhere.jsonl")
    (home / "empty.jsonl").write_text("\n\n")
    with pytest.raises(DatasetError, match="holds no question"):
        read_jsonl(home / "empty.jsonl")


def test_the_error_survives_the_way_between_processes(home: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        read_jsonl(home / "nowhere.jsonl")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_broken_audio_file_is_found_unless_audio_is_not_checked(home: Path) -> None:
    (home / "clips" / "bad.wav").write_text("no sound")
    path = write(home, record(audio="clips/bad.wav"))
    with pytest.raises(DatasetError, match=r"line 1: audio .*bad\.wav.*not readable as audio"):
        read_jsonl(path)
    assert len(read_jsonl(path, check_audio=False)) == 1


def test_writing_keeps_paths_relative_where_the_audio_lies_below(home: Path, tmp_path_factory: Any) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "b.wav"
    soundfile.write(elsewhere, np.zeros(16_000, np.float32), 16_000)
    read = read_jsonl(write(home, record(), record(id="q2", audio=str(elsewhere), task="music")))
    write_jsonl(home / "copy.jsonl", read)
    lines = [json.loads(line) for line in (home / "copy.jsonl").read_text().splitlines()]
    assert [line["audio"] for line in lines] == ["clips/a.wav", str(elsewhere)]
    assert "task" not in lines[0]
    assert read_jsonl(home / "copy.jsonl", name="train") == read
    assert {path.name for path in home.iterdir()} == {"clips", "train.jsonl", "copy.jsonl"}


def test_a_write_that_is_refused_leaves_the_old_file_alone(home: Path) -> None:
    path = write(home, record())
    before = path.read_bytes()
    (question,) = read_jsonl(path)
    for questions in ([], [question, question], [replace(question, answer="a cow")]):
        with pytest.raises(DatasetError):
            write_jsonl(path, questions)
    assert path.read_bytes() == before
    assert {entry.name for entry in home.iterdir()} == {"clips", "train.jsonl"}


text = st.text(min_size=1, max_size=20).filter(str.strip)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), ids=st.lists(text, min_size=1, max_size=4, unique=True))
def test_what_is_written_is_read_back(tmp_path: Path, data: st.DataObject, ids: list[str]) -> None:
    questions = []
    for index, question_id in enumerate(ids):
        choices = tuple(data.draw(st.lists(text, min_size=2, max_size=5, unique=True)))
        asked, answer = data.draw(text), data.draw(st.sampled_from(choices))
        questions.append(Question("d", index, question_id, str(tmp_path / "a.wav"), asked, choices, answer))
    write_jsonl(tmp_path / "d.jsonl", questions)
    assert read_jsonl(tmp_path / "d.jsonl", check_audio=False) == questions
