"""Hidden test sets have no answers: their questions are asked, predictions written, and no figure is made up."""

import asyncio
import json
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.cli.results import show_evaluation
from orchestrator.display.progress import PlainProgress
from orchestrator.display.report import render_report
from orchestrator.driver.evaluation import run_evaluation
from orchestrator.driver.summary import summarise
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError, dump_spec, parse_spec
from orchestrator.preflight.plan import count_questions
from orchestrator.preflight.prepare import prepare
from orchestrator.questions.solve_rates import measured_rates
from orchestrator.run.directory import RunDirectory
from orchestrator.training.control import Control
from orchestrator.training.state import RunState
from protocol.rollout import Answer, Completion, FailedQuestion, Failure, Group, RolloutRequest, Sampling, StopReason


@pytest.fixture
def hidden(tmp_path: Path, benchmark_home: Path) -> Path:
    """Six questions as MMAU's hidden test set has them."""
    lines = (benchmark_home / "heldout.jsonl").read_text().splitlines()[:6]
    items = [
        {
            "id": item["id"],
            "audio_id": str(benchmark_home / item["audio"]),
            "question": item["question"],
            "choices": item["choices"],
            "task": "sound",
        }
        for item in map(json.loads, lines)
    ]
    (tmp_path / "hidden.json").write_text(json.dumps(items))
    return tmp_path / "hidden.json"


def job(model: Path, evaluation: Path, **changes: Any) -> JobSpec:
    value = {
        "method": "evaluate",
        "model": {"path": str(model), "max_context": 256},
        "data": {"evaluation": str(evaluation), "evaluation_format": "mmau"},
        "evaluation": {"samples": 2, "temperature": 1.0},
        "rollout": {"max_tokens": 8},
    }
    return parse_spec(value | changes, "job")


class FirstChoice:
    """A stand-in for the pool: it says the first choice, and cannot hear question 5."""

    def __init__(self) -> None:
        self.asked: list[RolloutRequest] = []

    async def generate(self, requests: Sequence[RolloutRequest], sampling: Sampling) -> list[Answer]:
        self.asked += requests
        return [self._answer(request) for request in requests]

    def _answer(self, request: RolloutRequest) -> Answer:
        question = request.question
        if question.index == 5:
            return FailedQuestion(question, Failure.AUDIO, "silent.wav: no audio", "w")
        completion = Completion((1,), (-0.1,), f"<answer>{question.choices[0]}</answer>", StopReason.STOP)
        return Group(question, request.template, (), (completion, completion), 0, "w")


def test_the_predictions_of_a_hidden_test_set_are_written_and_no_accuracy_is_reported(tiny_folder, hidden, tmp_path):
    spec, pool, shown = job(tiny_folder, hidden), FirstChoice(), StringIO()
    run = RunDirectory.create(tmp_path / "run", dump_spec(spec))
    prepared = prepare(spec, lambda *_: None)

    async def go() -> None:
        up = asyncio.get_running_loop().create_future()
        up.set_result(None)
        anything: Any = pool
        await run_evaluation(prepared, run, PlainProgress(shown), anything, Control(run), up)

    asyncio.run(go())
    # Without answers a control says nothing, and is left out.
    assert [(request.silent, request.other_clip) for request in pool.asked] == [(False, None)] * 6
    items = json.loads(hidden.read_text())
    predictions = json.loads((run.path / "predictions.json").read_text())
    assert [item.get("model_output") for item in predictions] == [*(i["choices"][0] for i in items[:5]), None]
    result = json.loads(run.evaluation_file.read_text())
    figures = ("accuracy", "silence_accuracy", "shuffled_accuracy", "chance_accuracy", "scores")
    assert [result[key] for key in figures] == [None] * 5
    assert (result["labelled"], result["pass_at"], result["count"], result["failed"]) == (False, {}, 6, 1)
    assert {(answer["official"], answer["strict"]) for answer in result["answers"]} == {(None, None)}
    assert result["answers"][0]["prediction"] == items[0]["choices"][0]
    assert result["by_task"]["sound"]["accuracy"] is None
    assert "accuracy not reported, the questions have no answers, 1 of 6 questions failed" in shown.getvalue()
    assert "and have no prediction (audio 1)" in shown.getvalue()

    console = Console(record=True, width=160, file=StringIO())
    show_evaluation(result, console)
    assert "not reported: the questions have no answers" in console.export_text()
    summary = summarise(prepared, run, "succeeded", RunState(), 1.0)
    assert (summary["final_accuracy"], summary["chance_accuracy"]) == (None, None)
    run.write_summary(summary)
    assert "not reported: the questions have no answers" in render_report(run)
    # Nothing in it can be solved.
    with pytest.raises(SpecError, match="about questions without answers") as error:
        measured_rates(str(run.evaluation_file), prepared.held_out)
    assert len(str(error.value).splitlines()) == 1


def test_a_job_that_trains_refuses_held_out_questions_without_answers(tiny_folder, hidden, benchmark_home):
    data = {"train": str(benchmark_home / "train.jsonl"), "evaluation": str(hidden), "evaluation_format": "mmau"}
    spec = job(tiny_folder, hidden, method="reinforce", data=data, steps=1)
    for check in (lambda: prepare(spec, lambda *_: None), lambda: count_questions(spec)):
        with pytest.raises(
            SpecError, match=r"data.evaluation: .*hidden.json' has no answers.*earshot evaluate"
        ) as error:
            check()
        assert len(str(error.value).splitlines()) == 1


def test_evaluate_asks_for_a_file_before_anything_is_started(tiny_folder, hidden):
    done = CliRunner().invoke(app, ["evaluate", str(tiny_folder), "--data", str(hidden), "--max-context", "256"])
    assert (done.exit_code, done.stdout) == (2, "")
    last = done.stderr.splitlines()[-1]
    assert "has no answers, so there is no accuracy to report; name a file for the predictions" in last
    assert "starting workers" not in done.stderr


def test_predictions_do_not_replace_the_question_file(tiny_folder, hidden, tmp_path):
    (tmp_path / "link.json").symlink_to(hidden)
    for named in (hidden, tmp_path / "link.json"):
        done = CliRunner().invoke(
            app, ["evaluate", str(tiny_folder), "--data", str(hidden), "--predictions", str(named)]
        )
        assert (done.exit_code, done.stdout) == (2, "")
        assert "is the question file; name another file" in done.stderr
