"""A job that only evaluates: its valid settings, its resources and its results. Without an engine."""

import asyncio
import json
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.cli.results import show_evaluation
from orchestrator.display.progress import PlainProgress
from orchestrator.display.report import render_report
from orchestrator.driver.evaluation import run_evaluation
from orchestrator.driver.resume import check_resumable
from orchestrator.evaluation.compare import compare_results, read_result
from orchestrator.job.demand import max_cpus
from orchestrator.job.sections.evaluation import AudioControl
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError, dump_spec, parse_spec
from orchestrator.preflight.plan import plan
from orchestrator.preflight.prepare import prepare
from orchestrator.run.directory import RunDirectory
from orchestrator.training.control import Control
from protocol.rollout import Completion, FailedQuestion, Group, RolloutRequest, Sampling, StopReason


@pytest.fixture
def spec(tiny_folder: Path, benchmark_home: Path) -> JobSpec:
    value = {
        "method": "evaluate",
        "model": {"path": str(tiny_folder), "max_context": 256},
        "data": {"evaluation": str(benchmark_home / "heldout.jsonl")},
        "evaluation": {"samples": 2, "temperature": 1.0},
        "rollout": {"max_tokens": 8},
    }
    return parse_spec(value, "job")


class Answering:
    """A stand-in for the pool: correct only with the question's own clip."""

    async def generate(self, requests: Sequence[RolloutRequest], sampling: Sampling) -> list[Group | FailedQuestion]:
        assert sampling == Sampling(group_size=2, max_tokens=8, temperature=1.0)
        return [self._answer(request) for request in requests]

    def _answer(self, request: RolloutRequest) -> Group:
        question = request.question
        own = not request.silent and request.other_clip is None
        text = question.answer if own else next(c for c in question.choices if c != question.answer)
        completion = Completion((), (), f"<answer>{text}</answer>", StopReason.STOP)
        return Group(question, request.template, (), (completion, completion), 0, "w")


def ran(spec: JobSpec, folder: Path) -> RunDirectory:
    run = RunDirectory.create(folder, dump_spec(spec))

    async def go() -> None:
        up = asyncio.get_running_loop().create_future()
        up.set_result(None)
        pool: Any = Answering()
        prepared = prepare(spec, lambda *_: None)
        assert prepared.train == ()
        await run_evaluation(prepared, run, PlainProgress(StringIO()), pool, Control(run), up)

    asyncio.run(go())
    return run


def test_it_writes_the_result_and_the_predictions(spec, tmp_path, benchmark_home):
    run = ran(spec, tmp_path / "run")
    result = json.loads(run.evaluation_file.read_text())
    figures = {key: result[key] for key in ("accuracy", "silence_accuracy", "shuffled_accuracy", "count", "failed")}
    assert figures == {
        "accuracy": 1.0,
        "silence_accuracy": 0.0,
        "shuffled_accuracy": 0.0,
        "count": 20,
        "failed": 0,
    }
    assert result["pass_at"] == {"1": 1.0, "2": 1.0}
    assert (result["samples"], result["temperature"], len(result["answers"])) == (2, 1.0, 20)
    predictions = [json.loads(line) for line in (run.path / "predictions.jsonl").read_text().splitlines()]
    asked = [json.loads(line) for line in (benchmark_home / "heldout.jsonl").read_text().splitlines()]
    assert predictions == [item | {"model_prediction": item["answer"]} for item in asked]
    ((step, event),) = run.evaluations()
    assert (step, event["shuffled_accuracy"]) == (0, 0.0)
    assert set(event["by_category"]) == {item["category"] for item in asked}
    compared = read_result(run.evaluation_file)
    assert compare_results(compared, compared)["official"]["p_value"] == 1.0
    console = Console(record=True, width=120, file=StringIO())
    show_evaluation(result, console)
    assert "shuffled" in (text := console.export_text())
    assert "pass@2 100.0%" in text
    # Without a step there is nothing before and after.
    run.write_summary({"state": "succeeded", "steps": 0})
    page = render_report(run)
    assert "before → after" not in page
    assert "other clips" in page
    with pytest.raises(SpecError, match="the evaluation is done"):
        check_resumable(run, spec, spec)


def test_defaults_are_filled_in(spec):
    assert (spec.steps, spec.data.train, spec.evaluation.controls) == (0, spec.data.evaluation, tuple(AudioControl))
    assert parse_spec(spec.model_dump(mode="json"), "job") == spec
    whole = {"method": "evaluate", "model": {"path": "m"}, "data": {"evaluation": "e", "evaluation_format": "mmau"}}
    assert parse_spec(whole, "job").data.format == "mmau"
    less = parse_spec({**whole, "evaluation": {"controls": []}}, "job")
    assert less.evaluation.controls == ()


def test_it_needs_no_learner(spec):
    planned = plan(spec)
    assert (planned["learner_ranks"], planned["reference_model"], planned["training_questions"]) == (0, False, 0)
    assert (planned["evaluation_questions"], planned["memory_gib"]["learner_rank"]) == (20, 0.0)
    assert max_cpus(spec) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": {"train": "t"}}, "data.evaluation is missing"),
        ({"steps": 5}, "trains nothing"),
        ({"warm_start": {"steps": 1}}, "trains nothing"),
        ({"evaluation": {"samples": 4}}, "temperature above 0"),
        ({"evaluation": {"controls": ["noise"]}}, "'silence' or 'shuffled'"),
    ],
)
def test_an_invalid_setting_is_one_line(change, words):
    job = {"method": "evaluate", "model": {"path": "m"}, "data": {"evaluation": "e"}} | change
    with pytest.raises(SpecError, match=words) as error:
        parse_spec(job, "job")
    assert len(str(error.value).splitlines()) == 1
