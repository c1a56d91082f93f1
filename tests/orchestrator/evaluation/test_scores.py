"""Completions become scores, submissions and comparisons, without an engine."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.runs.command import run
from support.shared_files import shared_file

from audio_qa.dataset import DatasetError
from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from orchestrator.cli.results import show_scores
from orchestrator.evaluation.compare import compare_results, read_result
from orchestrator.evaluation.evaluate import Evaluation, evaluate
from orchestrator.evaluation.scores import scored
from orchestrator.job.sections.evaluation import AudioControl
from orchestrator.job.spec_file import parse_spec
from orchestrator.questions.held_out import asked_set, synthetic_set
from orchestrator.questions.splits import read_split
from protocol.rollout import Completion, FailedQuestion, Failure, Group, RolloutRequest, Sampling, StopReason

QUESTIONS = [
    Question("d", i, f"q{i}", "clip.wav", "?", ("dog", "cat", "cat"), "dog", task="sound", sub_category="x")
    for i in range(4)
]


def answering(texts: dict[str, Sequence[str] | None]) -> Any:
    """An engine that answers from a table if it gets the clip, and "cat" otherwise."""

    async def generate(requests: Sequence[RolloutRequest], sampling: Sampling) -> list[Group | FailedQuestion]:
        answers: list[Group | FailedQuestion] = []
        for request in requests:
            said = ["cat"] * sampling.group_size if request.silent else texts[request.question.id]
            if request.other_clip is not None:
                # The answer depends on the clip; the last clip does not fit into any prompt.
                said = None if request.other_clip == CLIPS[-1] else texts[OWNERS[request.other_clip]]
            if said is None:
                answers.append(FailedQuestion(request.question, Failure.AUDIO, "broken", "w"))
                continue
            assert len(said) == sampling.group_size
            completions = tuple(Completion((), (), text, StopReason.STOP) for text in said)
            answers.append(Group(request.question, request.template, (), completions, 0, "w"))
        return answers

    return generate


def ask(texts: dict[str, Sequence[str] | None], **sampling: Any) -> Evaluation:
    return asyncio.run(evaluate(answering(texts), QUESTIONS, PromptTemplate.ANSWER, 8, **sampling))


GREEDY = {"q0": ["<answer>dog</answer>"], "q1": ["dog"], "q2": ["<answer>cat</answer>"], "q3": None}


def test_an_evaluation_keeps_the_completions():
    result = ask(GREEDY)
    assert result.answers == (("<answer>dog</answer>",), ("dog",), ("<answer>cat</answer>",), None)
    event = result.as_event()
    assert set(event) == {*asdict(result.total), "by_task", "by_category", "by_difficulty", "by_sub_category"}
    assert (event["accuracy"], event["silence_accuracy"], event["failed"]) == (0.5, 0.0, 1)
    assert (event["shuffled_accuracy"], event["by_difficulty"]) == (None, {})
    assert event["by_sub_category"] == {"x": asdict(result.total)}
    assert event["chance_accuracy"] == pytest.approx(1 / 3)


CLIPS = [f"{i}.wav" for i in range(4)]
OWNERS = {clip: f"q{i}" for i, clip in enumerate(CLIPS)}


def test_each_control_asks_once_more_with_another_clip():
    """The clips do not exist, so each path counts as a different sound."""
    questions = [replace(q, audio=clip, difficulty="easy") for q, clip in zip(QUESTIONS, CLIPS, strict=True)]
    asked: list[RolloutRequest] = []
    texts = {"q0": ["dog"], "q1": ["dog"], "q2": ["cat"], "q3": ["dog"]}

    async def generate(requests: Sequence[RolloutRequest], sampling: Sampling) -> list[Group | FailedQuestion]:
        asked.extend(requests)
        return await answering(texts)(requests, sampling)  # type: ignore[no-any-return]

    result = asyncio.run(evaluate(generate, questions, PromptTemplate.ANSWER, 8, controls=tuple(AudioControl), seed=3))
    heard, silent, shuffled = asked[:4], asked[4:8], asked[8:]
    assert [r.question for part in (heard, silent, shuffled) for r in part] == questions * 3
    assert [(r.silent, r.other_clip) for r in heard + silent] == [(False, None)] * 4 + [(True, None)] * 4
    clips = [r.other_clip for r in shuffled]
    assert sorted(clip for clip in clips if clip) == CLIPS
    assert all(own != other for own, other in zip(CLIPS, clips, strict=True))
    # Every question has its own seed, the same for each control.
    assert len({r.seed for r in heard}) == 4
    assert [r.seed for r in heard] == [r.seed for r in silent] == [r.seed for r in shuffled]
    # Of the three that could be asked, two got the clip of a dog; the correct answer is the same for all.
    total = result.total
    assert (total.accuracy, total.silence_accuracy, total.shuffled_accuracy) == (3 / 4, 0.0, 2 / 3)
    assert result.groups["by_difficulty"] == {"easy": total}
    alone = asyncio.run(evaluate(generate, questions, PromptTemplate.ANSWER, 8, controls=()))
    assert (alone.total.silence_accuracy, alone.total.shuffled_accuracy) == (None, None)


def test_the_majority_of_several_samples_counts():
    sampled = {"q0": ["dog", "<answer>dog</answer>", "cat"], "q1": ["cat", "cat", "dog"], "q2": ["dog"] * 3, "q3": None}
    result = ask(sampled, samples=3, temperature=1.0)
    assert result.total.accuracy == 0.5
    told = scored(questions_of(QUESTIONS), result.answers, seed=0)
    assert [answer["prediction"] for answer in told["answers"]] == ["dog", "cat", "dog", None]
    low, high = (told["pass_at_interval"]["2"][bound] for bound in ("low", "high"))
    assert 0 <= low < told["pass_at"]["2"] < high <= 1
    assert told["pass_at"] == {"1": pytest.approx(2 / 4), "2": pytest.approx((1 + 2 / 3 + 1) / 4), "3": 3 / 4}


def questions_of(questions: Sequence[Question]) -> Any:
    return synthetic_set(questions, 42)


def test_scores_include_questions_that_could_not_be_asked():
    found = questions_of(QUESTIONS)
    assert (found.source.version, len(found.records)) == ("seed 42", 4)
    told = scored(found, ask(GREEDY).answers, seed=0)
    total = told["scores"]["total"]
    assert (total["missing"], total["strict"], total["official_all"]) == (1, 0.5, 0.5)
    assert told["scores"]["groups"]["by_sub_category"]["x"]["questions"] == 4
    json.dumps(told)
    console = Console(record=True, width=160)
    show_scores(told, console)
    assert "50.0%" in console.export_text()


def test_the_records_are_those_of_the_questions_that_were_asked(tmp_path):
    items = [
        {"id": f"m{i}", "audio_id": f"{i}.wav", "question": "?", "choices": ["a", "b"], "answer": "a"} for i in range(3)
    ]
    (tmp_path / "mmau.json").write_text(json.dumps(items))
    data = {"train": "t", "evaluation": str(tmp_path / "mmau.json")}
    spec = parse_spec({"model": {"path": "m"}, "data": data}, "job")
    found = read_split(spec.data, "evaluation", check_audio=False)
    asked = asked_set(found, 2)
    assert ([q.id for q in asked.questions], list(asked.records)) == (["m0", "m1"], items[:2])
    assert list(asked_set(found, 0).records) == items


def submission(path: Path, said: Sequence[str | None]) -> Path:
    items = json.loads(shared_file("mmau-test-mini.json").read_text())
    for item, text in zip(items, said, strict=True):
        if text is not None:
            item["model_output"] = text
    path.write_text(json.dumps(items))
    return path


def test_predictions_are_scored_and_compared_on_the_real_questions(tmp_path):
    questions = shared_file("mmau-test-mini.json")
    answers = [item["answer"] for item in json.loads(questions.read_text())]
    results = []
    for name, right in (("a", 600), ("b", 650)):
        said = [*answers[:right], *(None for _ in range(50)), *("" for _ in range(950 - right))]
        path = submission(tmp_path / f"{name}.json", said)
        results.append(tmp_path / f"{name}-result.json")
        results[-1].write_text(run("score", path, "--data", questions, "--json"))
    first = json.loads(results[0].read_text())
    assert first["source"]["version"].startswith("v05.15.25")
    total = first["scores"]["total"]
    assert (total["official"], total["official_all"], total["missing"]) == (600 / 950, 0.6, 50)
    assert set(first["scores"]["groups"]["by_difficulty"]) == {"easy", "medium", "hard"}
    assert len(first["scores"]["groups"]["by_sub_category"]) == 27
    found = json.loads(run("compare", *results, "--json"))
    assert (found["official"]["only_first"], found["official"]["only_second"], found["questions"]) == (0, 50, 1000)
    assert found["strict"]["difference"] == pytest.approx(0.05)
    assert found["official"]["interval"]["low"] > 0.03
    assert set(found["by_task"]) == {"sound", "music", "speech"}
    assert "+5.0%" in run("compare", *results)
    shown = run("score", tmp_path / "a.json", "--data", questions)
    assert "sub-category" in shown
    assert "63.2% (60-66)" in shown
    assert "50 questions have no prediction; the official figure skips 50." in shown


def test_results_of_different_question_files_are_not_compared(tmp_path):
    result = {"answers": [{"id": "q", "task": "", "official": True, "strict": True}], "scores": {}}
    for name, digest in (("a", "1"), ("b", "2")):
        source = {"location": "mmau.json", "version": "", "sha256": digest}
        (tmp_path / f"{name}.json").write_text(json.dumps(result | {"source": source}))
    assert "different question files" in run("compare", tmp_path / "a.json", tmp_path / "b.json", code=2)
    (tmp_path / "c.json").write_text("[]")
    assert "not a result" in run("compare", tmp_path / "a.json", tmp_path / "c.json", code=2)
    assert "cannot be read" in run("compare", tmp_path / "a.json", tmp_path / "d.json", code=2)


def test_questions_that_one_result_lacks_are_left_out_and_counted():
    def result(*ids: str) -> dict[str, Any]:
        answers = [{"id": i, "task": "", "official": None, "strict": True} for i in ids]
        return {"answers": answers, "source": {"location": "", "version": "", "sha256": ""}}

    found = compare_results(result("a", "b"), result("b", "c", "d"))
    assert (found["questions"], found["left_out"]) == (1, 3)
    assert (found["official"]["first_accuracy"], found["strict"]["first_accuracy"]) == (0.0, 1.0)


def test_a_result_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff\xfe")
    with pytest.raises(DatasetError, match=r"a\.json': not UTF-8 text; name the output of earshot evaluate --json"):
        read_result(tmp_path / "a.json")


def test_several_samples_need_a_temperature(tmp_path):
    assert "--temperature" in run("evaluate", tmp_path, "--samples", 4, code=2)
    assert "KEY=COLUMN" in run("evaluate", tmp_path, "--column", "x", code=2)
    model = ("evaluate", "builtin:tiny-qwen2-audio")
    assert "is a folder" in run(*model, "--predictions", tmp_path, code=2)
    (tmp_path / "file").write_text("")
    assert "no file can be created" in run(*model, "--predictions", tmp_path / "file" / "out.json", code=2)
    assert "--controls: there is no control 'noise'" in run(*model, "--controls", "silence,noise", code=2)
    assert "'--workers': Input should be greater than or equal to 1" in run(*model, "--workers", 0, code=2)
    assert "'--too-long': 'drop' is not one of" in run(*model, "--too-long", "drop", code=2)
