"""Figures, intervals and tests, against values computed by hand or by enumeration."""

import itertools
import json
from math import comb
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audio_qa.dataset import DatasetError
from audio_qa.files.reader import read_questions
from audio_qa.formats.question_set import QuestionSet
from audio_qa.question import Question
from audio_qa.scoring.intervals import accuracy_interval, difference_interval, mean_interval
from audio_qa.scoring.paired import compare, mcnemar_exact
from audio_qa.scoring.rules import RULES, rule_of
from audio_qa.scoring.sampling import majority_vote, pass_at_k
from audio_qa.scoring.score import judge, report
from audio_qa.scoring.submission import read_predictions, submission_name, write_predictions

MMAU = RULES["mmau"]


def question(index: int, **labels: str) -> Question:
    return Question("d", index, str(index), "", "?", ("a dog", "a cat"), "a dog", **labels)


def test_what_the_official_figure_skips_is_counted_beside_it():
    asked = [question(i, task="sound" if i < 4 else "music", difficulty="easy") for i in range(6)]
    said = ["a dog", "A dog!", "a cat", None, None, "a dog"]
    figures = report(judge(asked, said, MMAU), MMAU)
    total = figures.total
    assert (total.questions, total.missing, total.skipped) == (6, 2, 2)
    assert (total.official, total.official_all, total.strict) == (3 / 4, 3 / 6, 2 / 6)
    assert figures.groups["by_task"]["music"].official == 1.0
    assert figures.groups["by_task"]["sound"].official_all == 2 / 4
    assert figures.groups["by_category"] == {}
    assert list(figures.groups["by_difficulty"]) == ["easy"]
    assert report(judge(asked, [None] * 6, MMAU), MMAU).total.official is None


@given(st.lists(st.sampled_from(["a dog", "A dog!", "a cat", "", None]), min_size=1, max_size=30))
@settings(deadline=None)
def test_groups_add_up_and_the_stricter_count_is_never_higher(said):
    asked = [question(i, task="xyz"[i % 3]) for i in range(len(said))]
    figures = report(judge(asked, said, MMAU), MMAU, resamples=200)
    total = figures.total
    assert total.strict <= total.official_all <= (total.official if total.official is not None else 0) + 1e-12
    groups = figures.groups["by_task"].values()
    assert sum(group.questions for group in groups) == total.questions
    assert sum(group.official_all * group.questions for group in groups) == pytest.approx(
        total.official_all * total.questions
    )
    for value, interval in ((total.official_all, total.official_all_interval), (total.strict, total.strict_interval)):
        assert interval.low - 1e-9 <= value <= interval.high + 1e-9


def test_the_interval_is_the_bootstraps():
    """Compare with questions that are resampled individually."""
    outcomes = np.array([1] * 60 + [0] * 40)
    rng = np.random.default_rng(1)
    drawn = outcomes[rng.integers(0, 100, (10_000, 100))].mean(axis=1)
    interval = accuracy_interval(60, 40, seed=0)
    assert (interval.low, interval.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.011)
    assert accuracy_interval(60, 40, seed=0) == interval
    assert accuracy_interval(5, 0, seed=0).low == 1.0
    with pytest.raises(ValueError, match="questions that count"):
        accuracy_interval(0, 0, 3, seed=0)


def test_the_intervals_of_ninety_five_percent_hold_about_as_often():
    rng = np.random.default_rng(0)
    right = rng.binomial(200, 0.6, 300)
    held = [(i := accuracy_interval(int(r), 200 - int(r), seed=1, resamples=1000)).low <= 0.6 <= i.high for r in right]
    assert 0.90 <= np.mean(held) <= 0.99


def test_the_interval_of_a_mean_is_the_bootstraps():
    values = np.array([0.0] * 30 + [0.25] * 20 + [1.0] * 50)
    rng = np.random.default_rng(1)
    drawn = values[rng.integers(0, 100, (10_000, 100))].mean(axis=1)
    interval = mean_interval(list(values), seed=0)
    assert (interval.low, interval.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.011)
    assert mean_interval([0.5], seed=0).low == 0.5
    with pytest.raises(ValueError, match="needs values"):
        mean_interval([], seed=0)


def test_a_paired_interval_is_narrower_than_the_results_apart():
    interval = difference_interval(80, 1, 9, 10, seed=0)
    assert 0 < interval.low < 0.08 < interval.high < 0.15


@given(st.integers(0, 12), st.integers(0, 12))
def test_mcnemars_test_by_enumeration(only_first, only_second):
    n = only_first + only_second
    observed = comb(n, only_first)
    p = sum(comb(n, i) for i in range(n + 1) if comb(n, i) <= observed) / 2**n
    assert mcnemar_exact(only_first, only_second) == pytest.approx(p)
    assert mcnemar_exact(only_second, only_first) == mcnemar_exact(only_first, only_second)


def test_mcnemars_test_has_no_largest_sample():
    assert mcnemar_exact(0, 0) == 1.0
    assert mcnemar_exact(3000, 2000) < 1e-40


def test_two_results_are_compared_question_by_question():
    found = compare([True] * 6 + [False] * 4, [True] * 5 + [False] + [True] * 3 + [False], seed=0)
    assert (found.questions, found.only_first, found.only_second) == (10, 1, 3)
    assert (found.first_accuracy, found.second_accuracy, found.difference) == (0.6, 0.8, 0.2)
    assert found.p_value == pytest.approx(0.625)
    assert found.interval.low < 0.2 < found.interval.high
    with pytest.raises(ValueError, match="zip"):
        compare([True], [True, False], seed=0)


@pytest.mark.parametrize(
    ("answers", "winner"),
    [(["a", "b", "b"], "b"), (["b", "a"], "b"), ([" a", "a\n", "b"], "a"), (["", "", "b"], "b"), (["", " "], "")],
)
def test_the_majority_wins_and_the_first_of_equals(answers, winner):
    assert majority_vote(answers) == winner


@given(st.integers(1, 7), st.data())
def test_pass_at_k_by_enumeration(n, data):
    right, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    subsets = list(itertools.combinations([True] * right + [False] * (n - right), k))
    assert pass_at_k(n, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@pytest.mark.parametrize(("n", "right", "k"), [(4, 1, 5), (4, 5, 1), (4, 1, 0), (0, 0, 1)])
def test_pass_at_k_of_what_was_not_drawn_is_refused(n, right, k):
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(n, right, k)


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
    assert read_predictions(tmp_path / name, found, rule) == ["a dog", None, "猫"]


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (ITEMS[0] | {"id": "other"}, "item 'other' is not in"),
        (ITEMS[0] | {"model_output": 3}, "is not text"),
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
    assert read_predictions(tmp_path / "out.jsonl", found, rule) == ["x"]


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
    assert read_predictions(tmp_path / name, found, rule) == ["y", None]
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
        assert read_predictions(tmp_path / "out.jsonl", found, rule) == said
    assert [j.official for j in judge(found.questions, ["A", "B"], rule)] == [False, True]
