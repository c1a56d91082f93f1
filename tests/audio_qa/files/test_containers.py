"""A question file is what its content is, whatever its name."""

import hashlib
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest

from audio_qa.dataset import DatasetError
from audio_qa.files.reader import read_questions
from audio_qa.formats.question_set import QuestionSet
from audio_qa.scoring.rules import rule_of
from audio_qa.scoring.submission import submission_name, write_predictions

ITEMS: list[dict[str, Any]] = [
    {
        "id": f"q{i}",
        "audio": f"clips/{i}.wav",
        "question": f"What is {i}?",
        "choices": ["a dog", "rain"],
        "answer": said,
    }
    for i, said in enumerate(("a dog", "rain", "rain"))
]
LINES = "".join(json.dumps(item) + "\n" for item in ITEMS)


def read(path: Path, content: str | bytes, **options: Any) -> QuestionSet:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_questions(path, check_audio=False, **options)


def parquet(items: list[dict[str, Any]]) -> bytes:
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs the extra 'huggingface'")
    import pyarrow.parquet as files

    sink = pyarrow.BufferOutputStream()
    files.write_table(pyarrow.Table.from_pylist(items), sink)
    return bytes(sink.getvalue())


@pytest.mark.parametrize(
    "name", ["TEST.PARQUET", "train", "train.json", "train.jsonl", "0d5e1f.csv", "train.jsonl.parquet"]
)
@pytest.mark.parametrize(
    "content",
    [
        LINES,
        "\ufeff" + LINES,
        LINES.splitlines()[0],
        json.dumps(ITEMS),
        json.dumps(ITEMS, indent=1),
        json.dumps({"data": ITEMS}),
        json.dumps({"version": "1.0", "authors": ["a"], "questions": ITEMS}, indent=1),
        "\n" + json.dumps({"data": ITEMS}),
        b"parquet",
    ],
    ids=["lines", "marked", "one line", "array", "indented", "data", "other names", "blank line", "parquet"],
)
def test_the_content_tells_the_container(tmp_path: Path, name: str, content: str | bytes) -> None:
    found = read(tmp_path / name, parquet(ITEMS) if content == b"parquet" else content)
    assert found.source.format == "earshot"
    questions = found.accepted()
    assert [question.answer for question in questions] == ["a dog", "rain", "rain"][: len(questions)]
    assert questions[0].audio == str(tmp_path / "clips" / "0.wav")
    assert len(questions) == (1 if content == LINES.splitlines()[0] else 3)


def compressed_by_zip(folder: Path) -> bytes:
    with zipfile.ZipFile(folder / "made", "w") as archive:
        archive.writestr("train.jsonl", LINES)
    return (folder / "made").read_bytes()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x1f\x8b\x08\x00rest", "is compressed (gzip); unpack it"),
        (b"zip", "is a zip archive or a spreadsheet; unpack it, or save the sheet as CSV"),
        (LINES.encode("utf-16"), "is text in UTF-16; save it as UTF-8"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "is a web page or XML"),
        (b"RIFF\0\0\0\0WAVE", "is not text"),
        (json.dumps({"train": ITEMS, "test": ITEMS}), "several lists of objects ('train', 'test')"),
        (json.dumps({"version": 1, "items": {}}, indent=1), "no list of objects"),
        (json.dumps({"data": []}), "no list of objects"),
        (json.dumps({"data": {"questions": ITEMS}}), "no list of objects"),
        (json.dumps({"q0": ITEMS[0], "q1": ITEMS[1]}), "no list of objects"),
        ("questions of ours\nand more", "neither JSON nor Parquet, and its first line does not name columns"),
        (json.dumps(ITEMS)[:-9], "not JSON"),
        ("id,audio,id\n1,2,3\n", "column 'id' exists twice"),
        ('id,question\n1,"a" b\n', "line 2: not a table"),
        ('id,question\n1,"a', "line 2: not a table"),
        ("id,question\n1,\xe9".encode("latin-1"), "not UTF-8"),
        ("id,audio\n", "holds no question"),
    ],
)
def test_a_file_of_another_kind_is_one_line(tmp_path: Path, content: str | bytes, words: str) -> None:
    with pytest.raises(DatasetError, match=re.escape(words)) as caught:
        read(tmp_path / "train.jsonl", compressed_by_zip(tmp_path) if content == b"zip" else content)
    assert str(tmp_path / "train.jsonl") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_document_with_other_items_reports_them(tmp_path: Path) -> None:
    found = read(tmp_path / "a.json", json.dumps({"data": [*ITEMS, 7]}))
    assert (len(found.questions), [str(problem) for problem in found.problems]) == (
        3,
        [f"'{tmp_path}/a.json', item 4: a number, not an object; write {{...}}"],
    )


COLUMNS = {"id": "id", "choices": ["o1", "o2", "o3"], "answer": "label"}
TABLE = """\
id{d}audio{d}question{d}o1{d}o2{d}o3{d}label
q1{d}1.wav{d}"What{d} or ""who""
is heard?"{d}a dog{d}{d}rain{d}2

q2{d}2.wav{d}And now?{d}a dog{d}a cat{d}{d}a cat
"""


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_delimited_text_is_read_by_its_header(tmp_path: Path, delimiter: str, ends: str, mark: str) -> None:
    content = mark + TABLE.format(d=delimiter).replace("\n", ends)
    first, second = read(tmp_path / "t.txt", content, columns=COLUMNS).accepted()
    assert (first.id, first.text) == ("q1", f'What{delimiter} or "who"{ends}is heard?')
    assert (first.choices, first.answer) == (("a dog", "rain"), "rain")
    assert (second.choices, second.answer) == (("a dog", "a cat"), "a cat")
    assert second.audio == str(tmp_path / "2.wav")


def test_a_row_is_named_by_its_first_line_and_one_of_another_width_is_a_problem(tmp_path: Path) -> None:
    content = TABLE.format(d=",") + "q3,3.wav,one, two,a,b,,0\nq4,4.wav\nq5,5.wav,What?,a,b,,1\nq5,,What?,a,b,,1\n"
    found = read(tmp_path / "t.csv", content, columns=COLUMNS)
    assert [question.id for question in found.questions] == ["q1", "q2", "q5"]
    assert [str(problem).removeprefix(f"'{tmp_path}/t.csv', ") for problem in found.problems] == [
        "line 6: 8 cells, and 7 columns; put texts with ',' between quotes",
        "line 7: 2 cells, and 7 columns; put texts with ',' between quotes",
        "line 9: 'audio' is blank; write something",
    ]


def test_empty_rows_of_a_spreadsheet_do_not_count(tmp_path: Path) -> None:
    content = TABLE.format(d=",") + ",,,,,,\n   \n , ,\n"
    assert [question.id for question in read(tmp_path / "t.csv", content, columns=COLUMNS).accepted()] == ["q1", "q2"]


@pytest.mark.parametrize(
    ("columns", "key"), [({"choices": ["a", "b", "C"]}, "choices"), ({"task": "C"}, "task"), ({"id": "C"}, "id")]
)
@pytest.mark.parametrize("table", [True, False])
def test_a_named_column_that_no_item_has_is_refused(tmp_path: Path, columns: Any, key: str, table: bool) -> None:
    item = {"audio": "1.wav", "question": "What?", "a": "x", "b": "y", "c": "z", "answer": "x"}
    content = ",".join(item) + "\n" + ",".join(item.values()) + "\n" if table else json.dumps(item) + "\n"
    columns = {"choices": ["a", "b", "c"], **columns}
    with pytest.raises(DatasetError, match=f"no item has 'C', which the columns name for '{key}'; the nearest is"):
        read(tmp_path / "t", content, columns=columns)


def test_a_column_that_only_some_items_have_is_no_mistake(tmp_path: Path) -> None:
    item = {"audio": "1.wav", "question": "What?", "a": "x", "b": "y", "answer": "x"}
    content = json.dumps(item) + "\n" + json.dumps(item | {"c": "z"}) + "\n"
    questions = read(tmp_path / "t", content, columns={"choices": ["a", "b", "c"]}).accepted()
    assert [len(question.choices) for question in questions] == [2, 3]


def test_rows_without_an_id_are_named_by_their_place(tmp_path: Path) -> None:
    items = [{key: value for key, value in item.items() if key != "id"} for item in ITEMS]
    questions = read(tmp_path / "t.parquet", parquet(items)).accepted()
    assert [(question.id, question.answer) for question in questions][1:] == [
        ("t.parquet, row 2", "rain"),
        ("t.parquet, row 3", "rain"),
    ]


@pytest.mark.parametrize(
    ("cell", "choices"),
    [
        ('["a dog", "rain"]', ("a dog", "rain")),
        ("['a dog', 'rain']", ("a dog", "rain")),
        ("""['a dog', "it's rain", 'c, d']""", ("a dog", "it's rain", "c, d")),
        ("['a dog' 'rain']", None),  # as numpy writes it; Python would read one text
        ("['a dog' 'b', 'rain']", None),
        ("[a dog, rain]", None),
        ("a dog|rain", None),
    ],
)
def test_a_list_in_a_cell_is_json_or_python(tmp_path: Path, cell: str, choices: tuple[str, ...] | None) -> None:
    quoted = cell.replace('"', '""')
    found = read(tmp_path / "t.csv", f'id,audio,question,choices,answer\nq,1.wav,What?,"{quoted}",a dog\n')
    assert [question.choices for question in found.questions] == ([] if choices is None else [choices])
    assert all("'choices' " in str(problem) for problem in found.problems)


def test_a_table_in_the_columns_of_a_benchmark_is_that_benchmark(tmp_path: Path) -> None:
    content = 'id,audio_id,question,choices,answer,task\nm,./1.wav,What?,"[""1"", ""2""]",2,sound\n'
    found = read(tmp_path / "t.csv", content)
    (question,) = found.accepted()
    assert (found.source.format, question.answer, question.task) == ("mmau", "2", "sound")
    content = "path,question,choice_a,choice_b,choice_c,answer_gt,task_name,dataset_name\n1.wav,What?,a,b,,b,T,D\n"
    (question,) = read(tmp_path / "t.csv", content).accepted()
    assert (question.choices, question.answer, question.audio) == (("a", "b"), "b", str(tmp_path / "T_D" / "1.wav"))
    content = 'id,audio_path,question,choices,answer,length_type\np,"[""1.wav""]",What?,"[""a"", ""b""]",b,short\n'
    (question,) = read(tmp_path / "t.csv", content).accepted()
    assert question.audio == str(tmp_path / "1.wav")


def test_a_table_of_texts_does_not_say_whether_a_digit_is_an_index(tmp_path: Path) -> None:
    content = 'id,audio,question,choices,answer\nq,1.wav,How many?,"[""1"", ""2"", ""3""]",2\n'
    (problem,) = read(tmp_path / "t.csv", content).problems
    assert "'answer_text' or 'answer_index'" in str(problem)
    for key, answer in {"answer_text": "2", "answer_index": "3", "answer_number": "2"}.items():
        (question,) = read(tmp_path / "t.csv", content, columns={key: "answer"}).accepted()
        assert question.answer == answer
    # Its own schema says that an answer is a choice word for word.
    (question,) = read(tmp_path / "t.csv", content, format="earshot").accepted()
    assert question.answer == "2"


def test_the_digest_is_that_of_the_files_bytes(tmp_path: Path) -> None:
    content = TABLE.format(d=",").encode()
    assert read(tmp_path / "t.csv", content, columns=COLUMNS).source.sha256 == hashlib.sha256(content).hexdigest()


def test_the_layout_of_a_hub_cache(tmp_path: Path) -> None:
    """`snapshots/REV/train.jsonl` and its clips are links to files in `blobs` that have hashes for names."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "rev"
    (snapshot / "clips").mkdir(parents=True)
    blobs.mkdir()
    for name, content in {"a1": LINES.encode(), "b2": parquet(ITEMS), "c3": b"sound"}.items():
        (blobs / name).write_bytes(content)
    (snapshot / "train.jsonl").symlink_to("../../blobs/a1")
    (snapshot / "test.parquet").symlink_to("../../blobs/b2")
    for i in range(3):
        (snapshot / "clips" / f"{i}.wav").symlink_to("../../../blobs/c3")
    for name in ("train.jsonl", "test.parquet"):
        found = read_questions(snapshot / name, check_audio=False)
        assert found.accepted()[0].dataset == Path(name).stem
        assert {question.audio for question in found.questions} == {f"{snapshot}/clips/{i}.wav" for i in range(3)}
        assert all(Path(question.audio).is_file() for question in found.questions)


def test_two_answers_under_one_key_are_not_read(tmp_path: Path) -> None:
    twice = json.dumps(ITEMS[0])[:-1] + ', "answer": '
    found = read(tmp_path / "t.jsonl", twice + '"rain"}\n' + twice + '"a dog"}\n')
    assert [question.answer for question in found.questions] == ["a dog"]
    assert "line 1: not JSON (key 'answer' has two values)" in str(found.problems[0])
    with pytest.raises(DatasetError, match="key 'answer' has two values"):
        read(tmp_path / "t.json", "[" + twice + '"rain"}]')


def test_the_suffix_of_predictions_may_be_in_capitals(tmp_path: Path) -> None:
    found = read(tmp_path / "TEST.PARQUET", parquet(ITEMS))
    rule = rule_of(found.source.format)
    assert submission_name("TEST.JSONL", rule) == "predictions.jsonl"
    for name, start in {"P.PARQUET": b"PAR1", "P.JSONL": b"{", "P.json": b"["}.items():
        write_predictions(tmp_path / name, found, ["rain", None, "rain"], rule)
        assert (tmp_path / name).read_bytes().startswith(start)
