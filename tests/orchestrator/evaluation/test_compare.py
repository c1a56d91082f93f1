"""`earshot score` and `earshot compare` on files as people have them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.runs.command import run

from audio_qa.files.reader import read_questions
from audio_qa.formats.item import Answers
from audio_qa.scoring.rules import rule_of
from audio_qa.scoring.submission import write_predictions
from orchestrator.evaluation.compare import compare_results, read_result
from orchestrator.evaluation.scores import predictions_of, scored

AIR = {"question": "?", "choice_a": "a dog", "choice_b": "a cat", "answer_gt": "a cat", "dataset_name": "d"}


@pytest.fixture
def air_bench(tmp_path: Path) -> Path:
    items = [AIR | {"path": f"{i}.wav", "uniq_id": i, "task_name": "ab"[i % 2]} for i in range(40)]
    (tmp_path / "Foundation_meta.json").write_text(json.dumps(items))
    return tmp_path / "Foundation_meta.json"


def results(questions: Path, said: Sequence[Sequence[str]]) -> dict[str, Any]:
    result = scored(read_questions(questions, check_audio=False), said, seed=0)
    return json.loads(json.dumps(result))  # type: ignore[no-any-return]


def test_air_bench_is_counted_and_compared_by_what_its_letters_mean(air_bench: Path, tmp_path: Path):
    always = results(air_bench, [["<answer>a cat</answer>"]] * 40)
    total = always["scores"]["total"]
    assert (total["official"], total["strict"], always["answers"][0]["prediction"]) == (1.0, 1.0, "B")
    half = results(air_bench, [["<answer>a cat</answer>"] if i < 20 else ["a dog"] for i in range(40)])
    assert (half["scores"]["total"]["strict"], half["scores"]["groups"]["by_task"]["a"]["strict"]) == (0.5, 0.5)
    for name, result in (("always", always), ("half", half)):
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    found = json.loads(run("compare", tmp_path / "half.json", tmp_path / "always.json", "--json"))
    for part in (found, found["by_task"]["a"], found["by_task"]["b"]):
        assert part["strict"] == part["official"]
        assert (part["strict"]["difference"], part["strict"]["p_value"] < 0.01) == (0.5, True)


def test_samples_of_air_bench_are_voted_on_by_what_they_mean(air_bench: Path):
    # Of five, two are a cat in two notations, and no other answer is there twice.
    result = results(air_bench, [["a dog", "a cat", "B.", "rain", ""]] * 40)
    assert (result["answers"][0]["prediction"], result["scores"]["total"]["strict"]) == ("B", 1.0)
    assert result["pass_at"]["1"] == pytest.approx(2 / 5)


@pytest.mark.parametrize("responses", [["B", "(B)", "a cat"], ["<answer>B</answer>", "B. a cat", "B."]])
def test_responses_that_were_handed_in_are_scored_by_what_they_mean(air_bench: Path, tmp_path: Path, responses):
    lines = [{"uniq_id": str(i), "response": responses[i % 3]} for i in range(40)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    total = json.loads(run("score", tmp_path / "p.jsonl", "--data", air_bench, "--json"))["scores"]["total"]
    assert total["strict"] == 1.0


def test_a_result_of_an_earlier_version_is_compared(air_bench: Path, tmp_path: Path):
    """Its strict count took letters for answers, and was 0."""
    new = results(air_bench, [["a cat"]] * 40)
    old = {key: value for key, value in new.items() if key != "labelled"}
    old["answers"] = [answer | {"strict": False} for answer in new["answers"]]
    for name, result in (("old", old), ("new", new)):
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    found = compare_results(read_result(tmp_path / "old.json"), read_result(tmp_path / "new.json"))
    assert found["strict"]["difference"] == 0
    assert found["source"] == new["source"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"answers": 3, "source": {}, "scores": {}}, "not a result of"),
        ({"answers": [{}], "source": {"location": "", "version": "", "sha256": ""}, "scores": {}}, "answers.0.id"),
        ({"answers": [], "source": {"location": "", "version": "", "sha256": ""}, "scores": None}, "have no answers"),
    ],
)
def test_a_result_without_scores_is_refused(tmp_path: Path, content: Any, words: str):
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert words in run("compare", tmp_path / "a.json", tmp_path / "a.json", code=2)
    (tmp_path / "b.json").write_text("[" * 100_000)
    assert "not JSON" in run("compare", tmp_path / "b.json", tmp_path / "a.json", code=2)


MMAU = {"audio_id": "x.wav", "question": "?", "choices": ["a dog", "a cat"], "answer": "a cat", "task": "sound"}


@pytest.mark.parametrize("answer", [{}, {"answer": ""}, {"answer": None}])
def test_predictions_for_a_hidden_test_set_cannot_be_scored(tmp_path: Path, answer: dict[str, object]):
    items = [{key: value for key, value in MMAU.items() if key != "answer"} | {"id": f"m{i}"} | answer for i in (0, 1)]
    (tmp_path / "test.json").write_text(json.dumps(items))
    (tmp_path / "p.json").write_text(json.dumps([item | {"model_output": ""} for item in items]))
    error = run("score", tmp_path / "p.json", "--data", tmp_path / "test.json", code=2)
    assert "test.json': has no answers to score predictions by; name the file with the answers" in error
    questions = read_questions(tmp_path / "test.json", check_audio=False, answers=Answers.OPTIONAL)
    (tmp_path / "r.json").write_text(json.dumps(scored(questions, [["a cat"], [""]], seed=0)))
    error = run("compare", tmp_path / "r.json", tmp_path / "r.json", code=2)
    assert "its questions have no answers, so there is nothing to compare" in error


def test_predictions_for_items_that_are_left_out_are_counted_and_said(tmp_path: Path):
    pro = {"audio_path": ["1.wav"], "question": "?", "choices": ["x", "y"], "answer": "y", "length_type": "short"}
    kinds = [{"category": "sound"}, {"category": "open"}, {"category": "music", "audio_path": ["1.wav", "2.wav"]}]
    items = [pro | {"id": f"p{i}"} | kind for i, kind in enumerate(kinds)]
    (tmp_path / "test.json").write_text(json.dumps(items))
    (tmp_path / "p.json").write_text(json.dumps([item | {"model_output": "y"} for item in items]))
    result = json.loads(run("score", tmp_path / "p.json", "--data", tmp_path / "test.json", "--json"))
    assert result["predictions_left_out"] == {"not_single_choice": 2}
    assert (result["scores"]["total"]["questions"], result["scores"]["total"]["strict"]) == (1, 1.0)
    shown = run("score", tmp_path / "p.json", "--data", tmp_path / "test.json")
    assert "Predictions for items that are left out do not count: 2 not single choice." in shown


ITEMS: dict[str, dict[str, object]] = {
    "mmau": MMAU,
    "mmar": MMAU | {"audio_path": "x.wav", "modality": "sound"},
    "mmau_pro": MMAU | {"audio_path": "x.wav", "length_type": "short", "category": "sound"},
    "air_bench": AIR | {"task_name": "t"},
    "earshot": {"audio": "x.wav", "question": "?", "choices": ["a dog", "a cat"], "answer": "a cat"},
}
SAID = ["a cat", "A cat", "(B)", "B. a cat", "<answer>B</answer>", "a cafe\u0301", "", "Dog", "<think>a cat", "2.0"]


@pytest.mark.parametrize("format", ITEMS)
def test_predictions_that_were_written_are_scored_as_the_evaluation_was(tmp_path: Path, format: str):
    key = "uniq_id" if format == "air_bench" else "id"
    items = [ITEMS[format] | {key: f"q{i}", "path": f"{i}.wav"} for i in range(len(SAID))]
    if format == "earshot":
        items = [{k: v for k, v in item.items() if k != "path"} for item in items]
    (tmp_path / "q.json").write_text(json.dumps(items))
    found = read_questions(tmp_path / "q.json", format=format, check_audio=False)
    for samples in (1, 3):
        said = [[text, *(SAID[i - 1],) * (samples - 1)][:samples] for i, text in enumerate(SAID)]
        asked = scored(found, said, seed=0)
        rule = rule_of(found.source.format)
        write_predictions(tmp_path / "p.jsonl", found, predictions_of(found, said, rule), rule)
        result = run("score", tmp_path / "p.jsonl", "--data", tmp_path / "q.json", "--format", format, "--json")
        again = json.loads(result)
        assert [answer | {"completions": texts} for answer, texts in zip(again["answers"], said, strict=True)] == asked[
            "answers"
        ]
        assert again["scores"] == json.loads(json.dumps(asked["scores"]))


def test_results_of_one_file_that_was_read_in_two_ways_are_refused(tmp_path: Path):
    """Their answers are those of other columns, or are judged by another rule."""
    item = {"audio_id": "x.wav", "question": "?", "choices": ["x", "y"], "answer": "y", "first": 0, "second": 1}
    (tmp_path / "q.json").write_text(json.dumps([item | {"id": i} for i in range(3)]))
    said = {"id": 0, "model_prediction": "y", "model_output": "y"}
    (tmp_path / "p.json").write_text(json.dumps([said | {"id": i} for i in range(3)]))
    ways = {"mmau": [], "first": ["answer_index=first"], "second": ["answer_index=second"]}
    for name, columns in ways.items():
        given = [part for column in ["audio=audio_id", *columns] for part in ("--column", column)] if columns else []
        result = run("score", tmp_path / "p.json", "--data", tmp_path / "q.json", *given, "--json")
        # As PowerShell writes what a command prints.
        (tmp_path / f"{name}.json").write_text(result, encoding="utf-8-sig")
    assert "+0.0%" in run("compare", tmp_path / "second.json", tmp_path / "second.json")
    error = run("compare", tmp_path / "mmau.json", tmp_path / "second.json", code=2)
    assert "read their question file as mmau and as mapped" in error
    error = run("compare", tmp_path / "first.json", tmp_path / "second.json", code=2)
    assert "judge one prediction for question '0' differently" in error
