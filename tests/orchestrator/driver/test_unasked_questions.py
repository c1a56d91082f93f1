"""Questions that cannot be asked, and clips that are cut: an evaluation records them as training does."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from audio_qa.dataset import DatasetError
from audio_qa.scoring.rules import RULES
from audio_qa.scoring.submission import check_predictions
from orchestrator.cli.main import app
from orchestrator.cli.results import show_evaluation
from orchestrator.display.progress import PlainProgress
from orchestrator.display.report import render_report
from orchestrator.driver.evaluation import run_evaluation
from orchestrator.driver.summary import summarise
from orchestrator.evaluation.evaluate import NothingAskedError
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import dump_spec, parse_spec
from orchestrator.preflight.prepare import Prepared, prepare
from orchestrator.run.directory import RunDirectory
from orchestrator.training.control import Control
from orchestrator.training.state import RunState
from protocol.rollout import (
    Answer,
    Completion,
    FailedQuestion,
    Failure,
    Group,
    NoAnswer,
    RolloutRequest,
    Sampling,
    StopReason,
)

Say = Callable[[RolloutRequest], Answer]


@pytest.fixture
def spec(tiny_folder: Path, benchmark_home: Path) -> JobSpec:
    value = {
        "method": "evaluate",
        "model": {"path": str(tiny_folder), "max_context": 256},
        "data": {"evaluation": str(benchmark_home / "heldout.jsonl")},
        "evaluation": {"questions": 8},
        "rollout": {"max_tokens": 8},
    }
    return parse_spec(value, "job")


class Answering:
    """A stand-in for the pool that answers each request by a function."""

    def __init__(self, say: Say) -> None:
        self._say = say

    async def start(self, count: int) -> None:
        """Do nothing: there are no workers."""

    async def stop(self) -> None:
        """Do nothing."""

    async def generate(
        self, requests: Sequence[RolloutRequest], sampling: Sampling, *, round_robin: bool | None = None
    ) -> list[Answer]:
        return [self._say(request) for request in requests]


def group(request: RolloutRequest, text: str, stop: StopReason = StopReason.STOP, *, cut: float = 0.0) -> Group:
    completion = Completion((1, 2), (-0.1, -0.1), text, stop)
    return Group(request.question, request.template, (1,), (completion,), 0, "w", truncated_seconds=cut)


def failed(request: RolloutRequest, reason: Failure = Failure.AUDIO, detail: str = "broken.wav: no audio") -> Answer:
    return FailedQuestion(request.question, reason, detail, "w")


def evaluated(prepared: Prepared, folder: Path, pool: Any) -> tuple[RunDirectory, str]:
    """Run a job that only evaluates, on workers that are up; return its run and its display."""
    run, shown = RunDirectory.create(folder, dump_spec(prepared.spec)), StringIO()

    async def go() -> None:
        up = asyncio.get_running_loop().create_future()
        up.set_result(None)
        await run_evaluation(prepared, run, PlainProgress(shown), pool, Control(run), up)

    try:
        asyncio.run(go())
    finally:
        shown.flush()
    return run, shown.getvalue()


def some_fail(request: RolloutRequest) -> Answer:
    """Fail question 0, and question 1 with another clip; cut the clip of question 2, and the completion of 3."""
    index = request.question.index
    if index == 0 or (index == 1 and request.other_clip is not None):
        return failed(request)
    if index == 3:
        return group(request, "", StopReason.LENGTH)
    return group(request, request.question.answer, cut=1.25 if index == 2 else 0.0)


def test_each_question_that_could_not_be_asked_is_recorded_with_its_reason(spec, tmp_path):
    run, shown = evaluated(prepare(spec, lambda *_: None), tmp_path / "run", Answering(some_fail))
    events = [event for event in run.events() if event["kind"] in ("failed_question", "truncated_clip")]
    for event in events:
        assert (event.pop("evaluation"), event.pop("step"), event.pop("time")[:2]) == (True, 0, "20")
    assert events == [
        {
            "kind": "failed_question",
            "question": "heldout:0",
            "reason": "audio",
            "detail": "broken.wav: no audio",
            "control": None,
        },
        {
            "kind": "failed_question",
            "question": "heldout:1",
            "reason": "audio",
            "detail": "broken.wav: no audio",
            "control": "shuffled",
        },
        {"kind": "truncated_clip", "question": "heldout:2", "seconds": 1.25},
    ]
    ((_, event),) = run.evaluations()
    result = json.loads(run.evaluation_file.read_text())
    for figures in (event, result):
        assert (figures["failed"], figures["failed_reasons"], figures["failed_in_control"]) == (
            1,
            {"audio": 1},
            {"shuffled": 1},
        )
        # The failed question and the empty one are wrong; the one that failed with another clip only does not count.
        assert (figures["accuracy"], figures["silence_accuracy"], figures["shuffled_accuracy"]) == (6 / 8, 6 / 8, 5 / 6)
        assert (figures["truncated_clips"], figures["length_mean"]) == (1, 2.0)
        assert (figures["truncated_fraction"], figures["empty_fraction"]) == (1 / 7, 1 / 7)
    assert [(item["question"], item["control"]) for item in result["failures"]] == [
        ("heldout:0", None),
        ("heldout:1", "shuffled"),
    ]
    # Every completion is there, those of the controls included, with what cut it and whether it is right.
    said = list(run.evaluated())
    assert Counter(sample["control"] for sample in said) == {None: 7, "silence": 7, "shuffled": 6}
    empty = [s for s in said if s["question_key"] == "heldout:3"]
    assert {(s["text"], s["right"], s["stop_reason"], s["tokens"], s["step"]) for s in empty} == {
        ("", False, "length", 2, 0)
    }
    assert sum(sample["right"] for sample in said) == 6 + 6 + 5
    heard = {sample["question_key"]: sample["audio"] for sample in said if sample["control"] is None}
    for sample in said:
        assert (sample["audio"] == heard[sample["question_key"]]) == (sample["control"] != "shuffled")
    assert result["truncated"] == [{"question": "heldout:2", "id": result["answers"][2]["id"], "seconds": 1.25}]
    assert "1 of 8 questions could not be asked and count as wrong (audio 1), the first heldout:0: broken.wav" in shown
    assert "with the control shuffled: 1 of 8 questions could not be asked and do not count there" in shown
    assert "1 clips were longer than the model hears" in shown
    console = Console(record=True, width=160, file=StringIO())
    show_evaluation(result, console)
    text = console.export_text()
    assert "1 questions could not be asked and count as wrong: audio 1." in text
    assert "14.3% of the completions are empty." in text
    assert "questions that failed" in render_report(run)


def test_an_evaluation_in_which_nothing_could_be_asked_fails_with_the_first_reasons(spec, tmp_path):
    prepared = prepare(spec, lambda *_: None)
    with pytest.raises(NothingAskedError) as error:
        evaluated(prepared, tmp_path / "run", Answering(failed))
    assert str(error.value) == (
        "the evaluation has no result: 8 of 8 questions could not be asked (audio 8), the first heldout:0: broken.wav: "
        "no audio"
    )
    run = RunDirectory(tmp_path / "run")
    assert not run.evaluation_file.exists()
    assert sum(event["kind"] == "failed_question" for event in run.events()) == 8
    ((_, figures),) = run.evaluations()
    assert (figures["accuracy"], figures["silence_accuracy"], figures["failed"]) == (None, None, 8)
    assert figures["by_task"]["sound"]["accuracy"] is None
    # Whatever reads the run survives figures without a value.
    summary = summarise(prepared, run, "failed", RunState(), 1.0)
    assert (summary["final_accuracy"], summary["evaluation_failed"]) == (None, 8)
    run.write_summary(summary)
    assert "8 of 8" in render_report(run)


def test_logits_that_are_not_finite_fail_the_evaluation_and_name_the_weights(spec, tmp_path):
    """The pool's real retries, around a worker whose engine gives NaN."""
    from support.pool import LIMITS, Fleet

    cause = "model '/m', weight version 0: the log-probability of token 1 of 3 is nan, not finite"
    prepared = prepare(spec, lambda *_: None)
    run = RunDirectory.create(tmp_path / "run", dump_spec(spec))

    async def go() -> None:
        fleet = Fleet(LIMITS)

        async def unusable(requests: Sequence[RolloutRequest], sampling: Sampling) -> list[NoAnswer]:
            return [NoAnswer(cause, Failure.NONFINITE) for _ in requests]

        fleet.prepare = lambda handle: setattr(handle.worker, "generate", unusable)
        up = asyncio.ensure_future(fleet.pool.start(1))
        try:
            await run_evaluation(prepared, run, PlainProgress(StringIO()), fleet.pool, Control(run), up)
        finally:
            await fleet.pool.stop()

    with pytest.raises(NothingAskedError, match=r"nonfinite 8.*weight version 0.*is nan, not finite"):
        asyncio.run(go())
    assert {event["reason"] for event in run.events() if event["kind"] == "failed_question"} == {"nonfinite"}


def test_a_question_file_that_changes_during_the_job_does_not_matter(spec, tmp_path, benchmark_home):
    items = mmau_items(benchmark_home)
    prepared = prepare(asking(spec, tmp_path, [item | {"model_output": "stale"} for item in items]), lambda *_: None)
    (tmp_path / "own.json").unlink()
    run, _ = evaluated(prepared, tmp_path / "run", Answering(some_fail))
    predictions = json.loads((run.path / "predictions.json").read_text())
    # A question without a prediction does not keep that of another model.
    said = [None, *(item["answer"] for item in items[1:3]), "", *(item["answer"] for item in items[4:])]
    assert [item.pop("model_output", None) for item in predictions] == said
    assert [item.pop("model_prediction", None) for item in predictions] == said
    assert predictions == items


def mmau_items(benchmark_home: Path) -> list[dict[str, Any]]:
    """Return eight questions of the benchmark in the format of MMAU."""
    lines = (benchmark_home / "heldout.jsonl").read_text().splitlines()[:8]
    found = [json.loads(line) for line in lines]
    return [
        {
            "audio_id": str(benchmark_home / item["audio"]),
            **{k: item[k] for k in ("id", "question", "choices", "answer")},
        }
        for item in found
    ]


def asking(spec: JobSpec, folder: Path, items: Sequence[dict[str, Any]]) -> JobSpec:
    """Return a job that asks the items of a new file, `own.json`."""
    (folder / "own.json").write_text(json.dumps(items))
    return spec.model_copy(update={"data": spec.data.model_copy(update={"evaluation": str(folder / "own.json")})})


def test_what_spoils_the_predictions_is_found_before_anything_is_asked(spec, tmp_path, benchmark_home):
    items = mmau_items(benchmark_home)
    with pytest.raises(DatasetError, match=r"its records cannot be written to 'predictions.json'.*surrogates"):
        prepare(asking(spec, tmp_path, [items[0] | {"note": "\ud800"}, *items[1:]]), lambda *_: None)
    mixed = [item | {"note": i if i else "none"} for i, item in enumerate(items)]
    prepared = prepare(asking(spec, tmp_path, mixed), lambda *_: None)
    assert prepared.held_out_set is not None
    with pytest.raises(DatasetError, match=r"x\.parquet.*do not fit into columns"):
        check_predictions(Path("x.parquet"), prepared.held_out_set, RULES["mmau"])
    bad = [item | {"score": float("nan")} for item in items]
    found = prepare(asking(spec, tmp_path, bad), lambda *_: None).held_out_set
    assert found is not None
    assert [record["score"] for record in found.records] == [None] * 8


@pytest.mark.parametrize("command", ["evaluate", "filter"])
def test_commands_that_could_ask_nothing_end_with_one_line_and_exit_code_1(
    spec, tmp_path, benchmark_home, monkeypatch, command
):
    monkeypatch.setattr("orchestrator.driver.evaluation.RolloutPool", lambda *_, **__: Answering(failed))
    for module in ("evaluation", "silence_filter"):
        monkeypatch.setattr(f"orchestrator.driver.{module}.ray_session", lambda _: nullcontext())
    model, questions, output = spec.model.path, benchmark_home / "heldout.jsonl", tmp_path / "out.jsonl"
    arguments = {
        "evaluate": ["evaluate", model, "--data", questions, "--max-context", 256, "--json", "--predictions", output],
        "filter": ["data", "filter", questions, "--model", model, "--max-tokens", 8, "--output", output],
    }[command]
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert (done.exit_code, done.stdout, output.exists()) == (1, "", False)
    last = done.stderr.splitlines()[-1]
    assert "20 of 20 questions could not be asked" in last
    assert last.endswith("(audio 20), the first heldout:0: broken.wav: no audio")
