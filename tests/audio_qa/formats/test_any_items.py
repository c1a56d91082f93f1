"""Any item of a question file becomes a question or a reported problem; nothing is lost or raised."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audio_qa.dataset import DatasetError
from audio_qa.files.reader import read_questions
from audio_qa.formats.registry import NAMES

KEYS = (
    *("id", "uniq_id", "audio", "audio_id", "audio_path", "path", "video_name", "question", "question_text"),
    *("choices", "multi_choice", "choice_a", "choice_b", "choice_c", "choice_d", "answer", "answer_gt"),
    *("task", "task_name", "dataset_name", "category", "sub-category", "modality", "length_type", "difficulty"),
)
texts = st.sampled_from(["", " ", "a", "b", "x.wav", "../x", "[1]", "[", "\0", "\ud800", "é" * 5000, "s://b/x", "0"])
scalars = texts | st.integers(-2, 3) | st.none() | st.booleans() | st.floats(allow_nan=False)
values = scalars | st.lists(scalars, max_size=3) | st.dictionaries(texts, scalars, max_size=1)
items = st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, values)) | scalars


@pytest.mark.parametrize("check_audio", [True, False])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(found=st.lists(items, min_size=1, max_size=3), name=st.sampled_from(NAMES), array=st.booleans())
def test_every_item_is_a_question_or_a_problem(tmp_path, found: list[Any], name, array, check_audio):
    path = tmp_path / "any.json"
    path.write_text(json.dumps(found) if array else "\n".join(map(json.dumps, found)))
    columns = {"choices": ["choice_a", "choice_b", "choice_c"]} if name == "mapped" else None
    try:
        read = read_questions(path, format=name, columns=columns, check_audio=check_audio)
    except DatasetError as error:
        assert "\n" not in str(error)
        return
    assert len(read.questions) + len(read.problems) == len(found)
    assert len(read.questions) == len(read.records)
    assert all("\n" not in str(problem) for problem in read.problems)
    for question in read.questions:
        assert question.answer in question.choices
        assert len(question.choices) >= 2
