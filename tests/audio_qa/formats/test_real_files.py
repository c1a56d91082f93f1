"""The real question files load without loss, odd items included."""

import json
from collections import Counter

from support.shared_files import shared_file

from audio_qa.files.reader import read_questions


def test_mmau_loads_without_loss():
    path = shared_file("mmau-test-mini.json")
    items = json.loads(path.read_text())
    found = read_questions(path, check_audio=False)
    assert (found.source.format, found.source.version) == ("mmau", "v05.15.25 (2025-08-09)")
    assert found.problems == ()
    assert list(found.records) == items
    for question, item in zip(found.accepted(), items, strict=True):
        assert (question.id, question.text, question.answer) == (item["id"], item["question"], item["answer"])
        assert list(question.choices) == item["choices"]
        assert question.audio.endswith(item["audio_id"].removeprefix("."))
        category = item["category"]
        assert question.category == (category if isinstance(category, str) else ", ".join(category))
        assert (question.task, question.difficulty) == (item["task"], item["difficulty"])
        assert question.sub_category == item["sub-category"]
    assert Counter(len(q.choices) for q in found.questions) == {4: 948, 2: 27, 5: 24, 8: 1}
    assert sum(len(set(q.choices)) < len(q.choices) for q in found.questions) == 27


def test_mmar_loads_without_loss():
    path = shared_file("mmar-meta.jsonl")
    items = [json.loads(line) for line in path.read_bytes().splitlines()]
    found = read_questions(path, check_audio=False)
    assert found.source.format == "mmar"
    assert found.problems == ()
    assert list(found.records) == items
    for question, item in zip(found.accepted(), items, strict=True):
        assert (question.id, question.text, question.answer) == (item["id"], item["question"], item["answer"])
        assert list(question.choices) == item["choices"]
        assert question.audio.endswith(item["audio_path"].removeprefix("."))
        assert (question.task, question.category) == (item["modality"], item["category"])
        assert question.sub_category == item["sub-category"]
    assert Counter(len(q.choices) for q in found.questions) == {4: 815, 2: 171, 3: 10, 5: 3, 6: 1}


def test_a_changed_mmau_file_has_an_unknown_version(tmp_path):
    path = tmp_path / "mmau.json"
    path.write_bytes(shared_file("mmau-test-mini.json").read_bytes() + b"\n")
    assert read_questions(path, check_audio=False).source.version == "unknown"
