"""Each published format becomes questions, item by item."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from audio_qa.answer import chance
from audio_qa.dataset import DatasetError
from audio_qa.files.reader import read_questions
from audio_qa.formats.item import Answers
from audio_qa.formats.question_set import ProblemKind, QuestionSet, summary

CHOICES = ["a dog", "a cat", "rain", "a car"]
MMAU = {
    "id": "m1",
    "audio_id": "./clips/1.wav",
    "question": "What is heard?",
    "choices": CHOICES,
    "answer": "rain",
    "dataset": "AudioSet",
    "task": "sound",
    "split": "test-mini",
    "category": ["Reasoning"],
    "sub-category": "Event",
    "difficulty": "hard",
}
MMAR = {
    "id": "r1",
    "audio_path": "./clips/1.wav",
    "question": "What is heard?",
    "choices": CHOICES[:3],
    "answer": "rain",
    "modality": "mix-sound-speech",
    "category": "Signal Layer",
    "sub-category": "Anomaly Detection",
    "language": None,
}
AVQA = {
    "id": 7,
    "video_name": "1",
    "question_text": "What is heard in the video?",
    "multi_choice": CHOICES,
    "answer": 2,
    "question_relation": "Sound",
    "question_type": "What",
    "audio_path": "clips/1.wav",
}
AIR_BENCH = {
    "path": "1.wav",
    "question": "What is heard?",
    "choice_a": "a dog",
    "choice_b": "rain",
    "choice_c": None,
    "answer_gt": "rain",
    "task_name": "Sound_AQA",
    "dataset_name": "avqa",
    "uniq_id": 12,
}
MMAU_PRO = {
    "id": "p1",
    "audio_path": ["clips/1.wav"],
    "question": "What is heard?",
    "choices": CHOICES,
    "answer": "rain",
    "category": "sound",
    "sub-cat": "scene",
    "length_type": "short",
    "perceptual_skills": ["Source"],
    "reasoning_skills": [],
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "clips").mkdir()
    soundfile.write(tmp_path / "clips" / "1.wav", np.zeros(8_000, np.float32), 16_000)
    return tmp_path


def read(home: Path, *items: Any, array: bool = False, **options: Any) -> QuestionSet:
    path = home / "questions.json"
    path.write_text(json.dumps(items) if array else "".join(json.dumps(item) + "\n" for item in items))
    return read_questions(path, **options)


@pytest.mark.parametrize("array", [True, False])
@pytest.mark.parametrize(
    ("item", "name", "labels"),
    [
        (MMAU, "mmau", ("m1", "sound", "Reasoning", "Event", "hard")),
        (MMAR, "mmar", ("r1", "mix-sound-speech", "Signal Layer", "Anomaly Detection", "")),
        (AVQA, "avqa", ("7", "", "What", "Sound", "")),
        (MMAU_PRO, "mmau_pro", ("p1", "sound", "scene", "Source", "")),
    ],
)
def test_a_format_is_detected_from_its_keys_and_read_completely(home, item, name, labels, array):
    found = read(home, item, array=array)
    assert (found.source.format, found.problems) == (name, ())
    (question,) = found.accepted()
    assert question.audio == str(home / "clips" / "1.wav")
    assert question.answer == "rain"
    assert list(question.choices) == (item.get("choices") or item["multi_choice"])
    assert labels == (question.id, question.task, question.category, question.sub_category, question.difficulty)
    assert found.records == (item,)


def test_the_video_becomes_audio_in_avqa(home):
    (question,) = read(home, AVQA).questions
    assert question.text == "What is heard in the audio?"


def test_without_a_path_avqas_clip_has_the_videos_name(home):
    item = {key: value for key, value in AVQA.items() if key != "audio_path"}
    (question,) = read(home, item, audio_root=str(home / "clips")).questions
    assert question.audio == str(home / "clips" / "1.wav")


def test_missing_clips_of_avqa_are_left_out_and_counted(home):
    found = read(home, AVQA, AVQA | {"id": 8, "audio_path": "clips/2.wav"}, AVQA | {"id": 9})
    assert [(q.id, q.index) for q in found.accepted()] == [("7", 0), ("9", 2)]
    assert found.left_out() == {"missing_audio": 1}
    assert "2.wav" in str(found.problems[0])
    with pytest.raises(DatasetError, match="every item is left out"):
        read(home, AVQA | {"audio_path": "clips/2.wav"})


def test_a_broken_clip_of_avqa_is_refused(home):
    (home / "clips" / "2.wav").write_text("no sound")
    found = read(home, AVQA, AVQA | {"id": 8, "audio_path": "clips/2.wav"})
    with pytest.raises(DatasetError, match=r"line 2: audio .*2\.wav.*not readable"):
        found.accepted()


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({}, "Sound_AQA_avqa/1.wav"),
        ({"task_name": "Audio_Grounding"}, "Audio_Grounding_avqa/1.flac"),
        ({"path": "clips/1.wav"}, "clips/1.wav"),
    ],
)
def test_air_bench_has_a_folder_for_each_task_and_options_may_be_missing(home, change, path):
    (question,) = read(home, AIR_BENCH | change, check_audio=False).questions
    assert question.audio == str(home / path)
    assert (question.id, question.choices, question.answer) == ("12", ("a dog", "rain"), "rain")


@pytest.mark.parametrize(
    "change", [{"choices": None}, {"choices": []}, {"audio_path": ["a.wav", "b.wav"]}, {"category": "open"}]
)
def test_mmau_pro_items_other_than_single_choice_are_left_out(home, change):
    found = read(home, MMAU_PRO, MMAU_PRO | {"id": "p2"} | change)
    assert len(found.accepted()) == 1
    assert found.left_out() == {"not_single_choice": 1}


COLUMNS = {"id": "n", "audio": "wav", "question": "q", "choices": "options", "answer": "label", "task": "kind"}


@pytest.mark.parametrize(
    ("columns", "item"),
    [
        ({}, {"options": CHOICES, "label": "rain"}),
        ({}, {"options": json.dumps(CHOICES), "label": "rain"}),
        ({}, {"options": CHOICES, "label": 2}),
        ({"choices": ["o1", "o2", "o3"]}, {"o1": "a dog", "o2": "rain", "o3": None, "label": "rain"}),
    ],
)
def test_any_objects_can_be_mapped(home, columns, item):
    whole = {"n": 3, "wav": "clips/1.wav", "q": "What is heard?", "kind": "sound"} | item
    found = read(home, whole, columns=COLUMNS | columns)
    assert found.source.format == "mapped"
    (question,) = found.accepted()
    assert (question.id, question.answer, question.task) == ("3", "rain", "sound")


@pytest.mark.parametrize(
    ("item", "change", "kind", "words"),
    [
        (MMAU, {"answer": "Rain"}, ProblemKind.ANSWER, "'Rain' is not among the choices; the nearest is 'rain'"),
        (MMAU, {"choices": "a dog"}, ProblemKind.ITEM, "'choices' is a string"),
        (MMAU, {"choices": ["rain"]}, ProblemKind.ITEM, "at least 2"),
        (MMAU, {"question": " "}, ProblemKind.ITEM, "'question' is blank"),
        (MMAU, {"id": None}, ProblemKind.ITEM, "'id' is null"),
        (MMAU, {"id": "m1"}, ProblemKind.DUPLICATE_ID, "'m1' is already used in line 1"),
        (MMAU, {"audio_id": "clips/2.wav"}, ProblemKind.MISSING_AUDIO, "no such file"),
        (AVQA, {"answer": 4}, ProblemKind.ANSWER, "there are 4"),
        (AVQA, {"answer": -1}, ProblemKind.ANSWER, "there are 4"),
        (AVQA, {"answer": "rain"}, ProblemKind.ITEM, "index"),
        (AVQA, {"answer": True}, ProblemKind.ITEM, "truth value"),
        (AVQA, {"multi_choice": ["a", ""]}, ProblemKind.ITEM, "a choice is blank"),
        (AIR_BENCH, {"answer_gt": "a cat"}, ProblemKind.ANSWER, "'a cat'"),
    ],
)
def test_what_is_wrong_with_an_item_is_named(home, item, change, kind, words):
    found = read(home, item, item | {next(iter(item)): "other"} | change, check_audio=item is not AIR_BENCH)
    (problem,) = found.problems
    assert problem.kind is kind
    assert words in str(problem)
    assert "line 2" in str(problem)
    with pytest.raises(DatasetError):
        found.accepted()


def test_every_problem_is_found_and_the_error_has_the_first_ones_and_the_count(home):
    bad = [MMAU | {"id": f"b{i}", "answer": "thunder"} for i in range(8)]
    found = read(home, MMAU, *bad, 7, array=True)
    assert len(found.problems) == 9
    with pytest.raises(DatasetError, match=r"9 problems: .*item 2.*item 6.* and 4 more") as caught:
        found.accepted()
    assert "item 7" not in str(caught.value)
    assert summary(["one"]) == "one"


def test_in_earshots_own_schema_every_problem_is_found_too(home):
    good = {"id": "q1", "audio": "clips/1.wav", "question": "What?", "choices": ["a", "b"], "answer": "a"}
    path = home / "train.jsonl"
    bad = good | {"id": "q2", "answer": "c"}, good, good | {"id": "q3", "extra": 1}
    path.write_text("\n".join([json.dumps(good), "{", *map(json.dumps, bad)]))
    found = read_questions(path)
    assert found.source.format == "earshot"
    assert [(p.kind.value, p.place.rpartition(" ")[2]) for p in found.problems] == [
        ("item", "2"),
        ("answer", "3"),
        ("duplicate_id", "4"),
        ("item", "5"),
    ]
    assert [q.id for q in found.questions] == ["q1"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"format": "mmua"}, "'mmua' is not known; the nearest is 'mmau'"),
        ({"format": "mmar", "columns": {"id": "n"}}, "its own columns"),
    ],
)
def test_a_format_that_is_not_known_is_refused(home, options, words):
    with pytest.raises(DatasetError, match=words):
        read(home, MMAU, **options)


@pytest.mark.parametrize("content", ["", "[]", "[1", " \n"])
def test_a_file_without_items_is_refused(home, content):
    (home / "empty.json").write_text(content)
    with pytest.raises(DatasetError, match=r"empty\.json"):
        read_questions(home / "empty.json")
    with pytest.raises(DatasetError, match="no such file"):
        read_questions(home / "nowhere.json")


@pytest.mark.parametrize("path", ["\0", "x" * 5000, "a/" * 3000, "clips", "clips/1.wav/2.wav"])
def test_a_path_that_leads_to_no_file_is_a_missing_clip(home, path):
    for item, key in ((MMAU, "audio_id"), (AVQA, "audio_path")):
        (problem,) = read(home, item, item | {"id": "other", key: path}).problems
        assert problem.kind is ProblemKind.MISSING_AUDIO


UNANSWERED = {
    "earshot": {"id": "1", "audio": "1.wav", "question": "What is heard?", "choices": CHOICES},
    "mmau": {key: value for key, value in MMAU.items() if key != "answer"},
    "mmar": {key: value for key, value in MMAR.items() if key != "answer"},
    "avqa": {key: value for key, value in AVQA.items() if key != "answer"},
    "air_bench": {key: value for key, value in AIR_BENCH.items() if key != "answer_gt"},
    "mapped": {"audio": "1.wav", "question": "What is heard?", "choices": CHOICES},
}


@pytest.mark.parametrize("format", UNANSWERED)
def test_questions_without_answers_are_read_where_none_is_needed(tmp_path: Path, format: str) -> None:
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps(UNANSWERED[format]) + "\n")
    with pytest.raises(DatasetError, match="answer"):
        read_questions(path, format=format, check_audio=False).accepted()
    (question,) = read_questions(path, format=format, check_audio=False, answers=Answers.IGNORED).accepted()
    assert (question.text.startswith("What is heard"), question.answer, chance(question)) == (True, "", 0)


def test_an_existing_answer_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps(UNANSWERED["earshot"] | {"answer": "rain"}) + "\n")
    found = read_questions(path, format="earshot", check_audio=False, answers=Answers.IGNORED)
    assert [question.answer for question in found.questions] == [""]
    (path := tmp_path / "mmau.json").write_text(json.dumps([MMAU]))
    assert [q.answer for q in read_questions(path, check_audio=False, answers=Answers.IGNORED).questions] == [""]
