"""Predictions in the benchmarks' formats: written, and read as people hand them in."""

import json
from pathlib import Path

import pytest

from audio_qa.dataset import DatasetError
from audio_qa.files.reader import read_questions
from audio_qa.formats.question_set import QuestionSet
from audio_qa.scoring.rules import rule_of
from audio_qa.scoring.score import judge
from audio_qa.scoring.submission import check_submission, read_predictions, submission_name, write_predictions

ITEMS = [
    {"id": f"m{i}", "audio_id": "x.wav", "question": "?", "choices": ["a dog", "a cat"], "answer": "a dog", "more": [i]}
    for i in range(3)
]


def read(path: Path) -> QuestionSet:
    return read_questions(path, check_audio=False)


@pytest.mark.parametrize("name", ["out.json", "out.jsonl"])
def test_a_submission_is_the_question_file_with_predictions(tmp_path, name):
    (tmp_path / "q.json").write_text(json.dumps(ITEMS))
    found = read(tmp_path / "q.json")
    rule = rule_of(found.source.format)
    write_predictions(tmp_path / name, found, ["a dog", None, "猫"], rule)
    text = (tmp_path / name).read_text()
    written = json.loads(text) if name == "out.json" else [json.loads(line) for line in text.splitlines()]
    assert [{k: v for k, v in item.items() if not k.startswith("model_")} for item in written] == ITEMS
    assert [item.get("model_prediction") for item in written] == ["a dog", None, "猫"]
    assert [item.get("model_output") for item in written] == ["a dog", None, "猫"]
    assert "model_output" not in written[1]
    assert read_predictions(tmp_path / name, found, rule).by_question == ("a dog", None, "猫")


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (ITEMS[0] | {"id": "other"}, "item 'other' is not in"),
        (ITEMS[0] | {"model_output": ["a dog"]}, r"the prediction \['a dog'\] is not text"),
        (ITEMS[0] | {"model_output": True}, "the prediction True is not text"),
        (7, "not an object"),
        ({}, r"p\.json', item 1: has none of the keys that identify a question \(id, "),
    ],
)
def test_predictions_that_do_not_fit_are_refused(tmp_path, item, words):
    (tmp_path / "q.json").write_text(json.dumps(ITEMS))
    (tmp_path / "p.json").write_text(json.dumps([item]))
    found = read(tmp_path / "q.json")
    with pytest.raises(DatasetError, match=words):
        read_predictions(tmp_path / "p.json", found, rule_of("mmau"))
    (tmp_path / "p.json").write_text(json.dumps([ITEMS[0], ITEMS[0]]))
    with pytest.raises(DatasetError, match="twice"):
        read_predictions(tmp_path / "p.json", found, rule_of("mmau"))


@pytest.mark.parametrize("content", ["", "[]"])
def test_a_file_without_predictions_is_refused(tmp_path, content):
    (tmp_path / "q.json").write_text(json.dumps(ITEMS))
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(DatasetError, match=r"p\.json': holds no predictions; name the file"):
        read_predictions(tmp_path / "p.json", read(tmp_path / "q.json"), rule_of("mmau"))


def test_mmars_script_finds_predictions_before_and_after_its_change(tmp_path):
    item = {"id": "r1", "audio_path": "1.wav", "question": "?", "choices": ["x", "y"], "answer": "y", "modality": "mix"}
    (tmp_path / "q.jsonl").write_text(json.dumps(item) + "\n")
    found = read(tmp_path / "q.jsonl")
    rule = rule_of("mmar")
    assert submission_name(found.source.location, rule) == "predictions.jsonl"
    write_predictions(tmp_path / "out.jsonl", found, ["y"], rule)
    assert json.loads((tmp_path / "out.jsonl").read_text()) == item | {
        "answer_prediction": "y",
        "model_prediction": "y",
    }
    (tmp_path / "out.jsonl").write_text(json.dumps(item | {"model_prediction": "x"}))
    assert read_predictions(tmp_path / "out.jsonl", found, rule).by_question == ("x",)


def test_mmau_pro_is_read_and_submitted_as_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs the extra 'huggingface'")
    parquet = pytest.importorskip("pyarrow.parquet")
    item = {"id": "p0", "audio_path": ["1.wav"], "question": "?", "choices": ["x", "y"], "answer": "y"}
    items = [
        item | {"category": "sound", "length_type": "short"},
        item | {"id": "p1", "category": "open", "length_type": "short", "choices": None},
        item | {"id": "p2", "category": "music", "length_type": "long"},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(items), tmp_path / "test.parquet")
    found = read(tmp_path / "test.parquet")
    assert (found.source.format, found.left_out()) == ("mmau_pro", {"not_single_choice": 1})
    assert [(q.id, q.task, q.answer) for q in found.accepted()] == [("p0", "sound", "y"), ("p2", "music", "y")]
    rule = rule_of("mmau_pro")
    name = submission_name(found.source.location, rule)
    assert name == "predictions.parquet"
    write_predictions(tmp_path / name, found, ["y", None], rule)
    assert parquet.read_table(tmp_path / name).to_pylist() == [
        items[0] | {"model_output": "y"},
        items[2] | {"model_output": None},
    ]
    assert read_predictions(tmp_path / name, found, rule).by_question == ("y", None)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(DatasetError, match="not readable as Parquet"):
        read(tmp_path / "broken.parquet")


def test_air_benchs_items_are_known_without_an_id(tmp_path):
    item = {"path": "1.wav", "question": "?", "choice_a": "x", "choice_b": "y", "answer_gt": "y"}
    items = [item | {"task_name": "t", "dataset_name": d} for d in ("d1", "d2")]
    (tmp_path / "q.json").write_text(json.dumps(items))
    found = read(tmp_path / "q.json")
    rule = rule_of("air_bench")
    # Its script reads one object per line, with a response in each.
    assert submission_name(found.source.location, rule) == "predictions.jsonl"
    for said, written in ((["A", "B"], ["A", "B"]), ([None, "B"], ["None", "B"])):
        write_predictions(tmp_path / "out.jsonl", found, said, rule)
        lines = (tmp_path / "out.jsonl").read_text().splitlines()
        assert [json.loads(line)["response"] for line in lines] == written
        assert list(read_predictions(tmp_path / "out.jsonl", found, rule).by_question) == said
    assert [j.official for j in judge(found.questions, ["A", "B"], rule)] == [False, True]


PRO = {"audio_path": ["1.wav"], "question": "?", "choices": ["x", "y"], "answer": "y", "length_type": "short"}
PRO_ITEMS = [
    PRO | {"id": "p0", "category": "sound"},
    PRO | {"id": "p1", "category": "open", "choices": None},
    PRO | {"id": "p2", "category": "music"},
    PRO | {"id": "p3", "category": "music", "audio_path": ["1.wav", "2.wav"]},
]


def test_predictions_for_items_that_are_left_out_are_counted_and_do_not_matter(tmp_path):
    (tmp_path / "q.json").write_text(json.dumps(PRO_ITEMS))
    found, rule = read(tmp_path / "q.json"), rule_of("mmau_pro")
    assert found.left_out() == {"not_single_choice": 2}
    (tmp_path / "p.json").write_text(json.dumps([item | {"model_output": "y"} for item in reversed(PRO_ITEMS)]))
    predictions = read_predictions(tmp_path / "p.json", found, rule)
    assert (predictions.by_question, predictions.left_out) == (("y", "y"), {"not_single_choice": 2})
    # Without a prediction there is nothing to count.
    (tmp_path / "p.json").write_text(json.dumps([PRO_ITEMS[0] | {"model_output": "y"}, PRO_ITEMS[1]]))
    assert read_predictions(tmp_path / "p.json", found, rule).left_out == {}
    (tmp_path / "p.json").write_text(json.dumps([PRO_ITEMS[1] | {"model_output": "y"}]))
    with pytest.raises(DatasetError, match="all 1 predictions are for items that are left out"):
        read_predictions(tmp_path / "p.json", found, rule)
    (tmp_path / "p.json").write_text(json.dumps([{"id": "p4", "model_output": "y"}]))
    with pytest.raises(DatasetError, match="item 'p4' is not in"):
        read_predictions(tmp_path / "p.json", found, rule)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([0, 1, 2], ["0", "1", "2"]),
        (["0", "1", "2"], [0, 1, 2]),
        (["0", "1", "2"], [0.0, 1.0, 2.0]),
        (["0", "1", "2"], ["0.0", "1.0", "2.0"]),
        (["café", "b", "c"], ["cafe\u0301", "b ", " c"]),
        # Exact ids come before similar ones.
        (["1.0", "1", "01"], ["1.0", "1", "01"]),
    ],
)
def test_ids_are_the_same_as_numbers_and_as_text(tmp_path, ours, theirs):
    items = [ITEMS[0] | {"id": id} for id in ours]
    (tmp_path / "q.json").write_text(json.dumps(items))
    said = [{"id": id, "model_output": f"said {place}"} for place, id in enumerate(theirs)]
    (tmp_path / "p.json").write_text(json.dumps(said))
    predictions = read_predictions(tmp_path / "p.json", read(tmp_path / "q.json"), rule_of("mmau"))
    assert predictions.by_question == ("said 0", "said 1", "said 2")


@pytest.mark.parametrize("id", ["01", "1.5", 10, "1.00x", True, ""])
def test_an_id_that_is_only_like_another_is_refused(tmp_path, id):
    (tmp_path / "q.json").write_text(json.dumps([ITEMS[0] | {"id": 1}]))
    (tmp_path / "p.json").write_text(json.dumps([{"id": id, "model_output": "a dog"}]))
    with pytest.raises(DatasetError, match=r"is not in .*q\.json|has none of the keys"):
        read_predictions(tmp_path / "p.json", read(tmp_path / "q.json"), rule_of("mmau"))


@pytest.mark.parametrize(
    ("format", "keys", "prediction"),
    [
        ("mmau", {"model_prediction": "", "model_output": "a dog"}, "a dog"),
        ("mmau", {"model_prediction": None, "model_output": "a dog"}, "a dog"),
        ("mmau", {"model_prediction": "a dog", "model_output": " "}, "a dog"),
        ("mmau", {"model_prediction": float("nan"), "model_output": "a dog"}, "a dog"),
        # The benchmark's script reads this key.
        ("mmau", {"model_prediction": "a dog", "model_output": "a cat"}, "a cat"),
        ("mmar", {"model_prediction": "a dog", "answer_prediction": "a cat"}, "a cat"),
        ("mmar", {"model_prediction": "a dog", "answer_prediction": None}, "a dog"),
        ("mmau", {"model_prediction": "", "model_output": None}, ""),
        ("mmau", {"model_prediction": None, "model_output": float("nan")}, None),
        ("mmau", {"model_output": 3}, "3"),
        ("mmau", {"model_output": 3.0}, "3"),
        ("mmau", {"model_output": 2.5}, "2.50"),
        ("mmau", {"model_output": 0.75}, "0.75"),
        ("air_bench", {"response": "None"}, None),
    ],
)
def test_the_prediction_of_an_item_is_the_first_that_is_not_blank(tmp_path, format, keys, prediction):
    item = ITEMS[0] | {"choices": ["a dog", "3", "2.50", "3/4", "6/8"]}
    (tmp_path / "q.json").write_text(json.dumps([item]))
    (tmp_path / "p.json").write_text(json.dumps([{"id": "m0"} | keys]))
    predictions = read_predictions(tmp_path / "p.json", read(tmp_path / "q.json"), rule_of(format))
    assert predictions.by_question == (prediction,)


@pytest.mark.parametrize("items", [[{"id": "m0"}], [ITEMS[0] | {"prediction": "a dog"}]])
def test_a_file_without_the_key_of_predictions_is_refused(tmp_path, items):
    (tmp_path / "q.json").write_text(json.dumps(ITEMS))
    (tmp_path / "p.json").write_text(json.dumps(items))
    with pytest.raises(DatasetError, match=r"holds no predictions; .* \(key 'model_output' or 'model_prediction'\)"):
        read_predictions(tmp_path / "p.json", read(tmp_path / "q.json"), rule_of("mmau"))


def test_predictions_are_read_from_tables(tmp_path):
    (tmp_path / "q.json").write_text(json.dumps([ITEMS[0] | {"id": id} for id in range(3)]))
    (tmp_path / "p.csv").write_text('id,model_prediction,model_output\n2.0,,"a dog"\n0.0,a cat,\n')
    predictions = read_predictions(tmp_path / "p.csv", read(tmp_path / "q.json"), rule_of("mmau"))
    assert predictions.by_question == ("a cat", None, "a dog")


@pytest.mark.parametrize("ids", [True, False])
def test_predictions_for_mapped_columns_are_read_as_they_were_written(tmp_path, ids):
    """Items whose columns have other names are known by the id's column, or by all columns together."""
    columns = {"audio": "wav", "question": "prompt", "choices": "options", "answer": "label"}
    items = [{"wav": f"{i % 2}.wav", "prompt": f"{i // 2}?", "options": ["x", "y"], "label": "y"} for i in range(4)]
    if ids:
        columns["id"] = "name"
        items = [item | {"name": i, "id": "all the same"} for i, item in enumerate(items)]
    (tmp_path / "q.json").write_text(json.dumps(items))
    found = read_questions(tmp_path / "q.json", columns=columns, check_audio=False)
    rule, said = rule_of(found.source.format), ["x", "y", None, "z"]
    write_predictions(tmp_path / "p.json", found, said, rule)
    written = json.loads((tmp_path / "p.json").read_text())
    (tmp_path / "p.json").write_text(json.dumps(written[::-1]))
    assert list(read_predictions(tmp_path / "p.json", found, rule).by_question) == said
    # One clip has several questions, so it does not name one.
    (tmp_path / "p.json").write_text(json.dumps([{"wav": "0.wav", "model_prediction": "x"}]))
    with pytest.raises(DatasetError, match="is not the only one like it"):
        read_predictions(tmp_path / "p.json", found, rule)


def test_the_letters_of_choices_are_those_of_the_file(tmp_path):
    item = {"path": "1.wav", "question": "?", "choice_a": "x", "choice_b": "y", "choice_c": None, "choice_d": "z"}
    item |= {"answer_gt": "z", "task_name": "t", "dataset_name": "d"}
    (tmp_path / "q.json").write_text(json.dumps([item, item | {"path": "2.wav", "answer_gt": "y", "choice_d": " "}]))
    (problem,) = read(tmp_path / "q.json").refused
    assert "has a 'choice_d' and no 'choice_c', and letters count the choices" in str(problem)


def test_a_whole_number_of_a_table_is_the_choice_of_its_value(tmp_path: Path) -> None:
    """With a blank among them, pandas writes the predictions 2 and 10 as 2.0 and 10.0, which has the word 0."""
    choices = [["0", "2"], ["10", "1"], ["2", "2.0"]]
    item = {"audio_id": "x.wav", "question": "?"}
    items = [item | {"id": i, "choices": c, "answer": c[0]} for i, c in enumerate(choices)]
    (tmp_path / "q.json").write_text(json.dumps(items))
    (tmp_path / "p.csv").write_text("id,model_output\n0,2.0\n1,10.0\n2,2.0\n")
    found = read_questions(tmp_path / "q.json", check_audio=False)
    assert read_predictions(tmp_path / "p.csv", found, rule_of("mmau")).by_question == ("2", "10", "2.0")


@pytest.mark.parametrize("name", ["p.json", "p.csv"])
def test_predictions_for_another_version_of_the_file_are_refused(tmp_path: Path, name: str) -> None:
    """MMAU's revision of May 2025 kept the ids and changed a quarter of the questions."""
    mmau = {"id": "a", "audio_id": "x.wav", "question": "?", "choices": ["a dog", "a cat"], "answer": "a cat"}
    path = {"path": "x.wav", "task_name": "t", "dataset_name": "d"}
    air = path | {"question": "?", "choice_a": "a dog", "choice_b": "a cat", "answer_gt": "a cat", "uniq_id": 1}
    reordered, revised = ["a cat", "a dog"], ["a dog", "a wolf"]
    cases: list[tuple[dict[str, object], dict[str, object], str, str]] = [
        (mmau, {"choices": reordered}, "model_output", ""),
        (mmau, {"choices": "['a dog' 'a cat']"}, "model_output", ""),  # as numpy writes it
        (mmau, {"choices": revised}, "model_output", "choices"),
        (air, {"choice_a": "a cat", "choice_b": "a dog"}, "response", "choice_a"),
    ]
    for item, change, key, column in cases:
        (tmp_path / "q.json").write_text(json.dumps([item]))
        found = read_questions(tmp_path / "q.json", check_audio=False)
        record = item | change | {key: "B"}
        if name.endswith(".csv"):
            cells = ['"' + str(value).replace('"', '""') + '"' for value in record.values()]
            (tmp_path / name).write_text(f"{','.join(record)}\n{','.join(cells)}\n")
        else:
            (tmp_path / name).write_text(json.dumps([record]))
        if column:
            with pytest.raises(DatasetError, match=f"has other '{column}' than in .*; name the version of the file"):
                read_predictions(tmp_path / name, found, rule_of(found.source.format))
        else:
            assert read_predictions(tmp_path / name, found, rule_of("mmau")).by_question == ("B",)


@pytest.mark.parametrize("name", ["p.csv", "P.TSV"])
def test_predictions_are_not_written_as_json_under_the_name_of_a_table(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match=r"ends in \.json, \.jsonl or \.parquet"):
        check_submission(tmp_path / name)
