"""Items without ids are named by their place, wherever the file is: results are compared, and runs resumed, by ids."""

import csv
import json
from pathlib import Path

import pytest

from audio_qa.files.reader import read_questions
from orchestrator.preflight.digests import questions_digest

ROW = {"audio": "0.wav", "prompt": "Which?", "choices": ["x", "y"], "answer": "x"}


@pytest.mark.parametrize(
    ("name", "ids"),
    [("q, 1.json", ["q, 1.json, item 1", "q, 1.json, item 2"]), ("t's.csv", ["t's.csv, line 2", "t's.csv, line 3"])],
)
def test_a_file_that_was_moved_has_the_same_questions(tmp_path: Path, name: str, ids: list[str]) -> None:
    digests = set()
    for folder in ("here", "there/it's"):
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True)
        with path.open("w", newline="") as file:
            if path.suffix == ".json":
                json.dump([ROW, ROW], file)
            else:
                csv.writer(file).writerows([ROW, ROW.values(), ROW.values()])
        found = read_questions(path, columns={"question": "prompt"}, check_audio=False)
        assert [question.id for question in found.accepted()] == ids
        digests.add(questions_digest(found.questions))
    assert len(digests) == 1
