"""A loop stops after consecutive non-finite updates, and survives an evaluation without a result once it has begun."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pytest

from audio_qa.question import Question
from orchestrator.display.progress import make_progress
from orchestrator.evaluation.evaluate import NothingAskedError
from orchestrator.job.spec import JobSpec
from orchestrator.run.directory import RunDirectory
from orchestrator.training.control import Control
from orchestrator.training.loop import NonFiniteError, Parts
from orchestrator.training.state import RunState
from orchestrator.training.supervised import SupervisedLoop
from protocol.rollout import Completion, FailedQuestion, Failure, Group, StopReason
from protocol.training import Learned

SPEC = JobSpec.model_validate(
    {
        "model": {"path": "m"},
        "data": {"train": "t"},
        "learner": {"max_nonfinite_steps": 3, "loss": {"updates_per_batch": 1}},
    }
)
FINITE, SKIPPED = Learned(1, {"learner/nonfinite": 0.0}), Learned(1, {"learner/nonfinite": 1.0})


@pytest.fixture
def loop(tmp_path):
    """A loop without the parts that these tests do not use."""
    run_dir = RunDirectory.create(tmp_path / "run", "name: test\n")
    parts = Parts(
        spec=SPEC,
        train=[Question("d", 0, "0", "0.wav", "?", ("a", "b"), "a")],
        held_out=[],
        pool=None,
        learner=None,
        run_dir=run_dir,
        checkpoints=None,
        progress=make_progress("quiet"),
        state=RunState(),
        control=Control(run_dir),
    )
    return SupervisedLoop(parts)


def test_three_in_a_row_end_the_job_with_a_clear_error(loop):
    loop.check_finite(1, SKIPPED)
    loop.check_finite(2, SKIPPED)
    with pytest.raises(NonFiniteError, match="3 updates in a row, up to step 3"):
        loop.check_finite(3, SKIPPED)
    events = loop.run_dir.events()
    assert [(e["kind"], e["step"], e["in_row"]) for e in events] == [("nonfinite_update", i, i) for i in (1, 2, 3)]


def test_a_finite_update_resets_the_count(loop):
    for step, learned in enumerate((SKIPPED, SKIPPED, FINITE, SKIPPED, SKIPPED), start=1):
        loop.check_finite(step, learned)
    assert loop.state.nonfinite_in_row == 2


def test_smaller_micro_batches_are_reported(loop):
    loop.check_finite(4, Learned(1, {"learner/cut_smaller": 1.0, "learner/micro_batches": 6.0}))
    (event,) = loop.run_dir.events()
    assert (event["kind"], event["step"], event["micro_batches"]) == ("batch_cut_smaller", 4, 6.0)


def answering(*readable):
    """A stand-in for the pool that can read the clips of some questions, and answers them correctly."""

    def answer(request):
        question = request.question
        if question.index not in readable:
            return FailedQuestion(question, Failure.AUDIO, f"{question.audio}: no such file", "w")
        completion = Completion((1, 2), (-0.1, -0.1), question.answer, StopReason.LENGTH)
        return Group(question, request.template, (1,), (completion,), 0, "w", truncated_seconds=0.5)

    async def generate(requests, sampling):
        return [answer(request) for request in requests]

    return SimpleNamespace(generate=generate)


def test_an_evaluation_in_training_records_what_failed_and_has_no_accuracy_if_all_did(loop):
    question = loop.train[0]
    loop.held_out = [replace(question, dataset="h", index=i, audio=f"{i}.wav") for i in range(2)]
    loop.pool = answering()
    # Before the first step nothing is lost yet.
    with pytest.raises(NothingAskedError, match=r"2 of 2 questions .*audio 2.*the first h:0: 0\.wav: no such file"):
        asyncio.run(loop.evaluate(0))
    loop.pool = answering(1)
    figures = asyncio.run(loop.evaluate(10))
    assert (figures["eval/accuracy"], figures["eval/failed"], figures["eval/truncated_fraction"]) == (0.5, 1, 1.0)
    assert loop.state.accuracy == 0.5
    loop.pool = answering()
    figures = asyncio.run(loop.evaluate(20))
    assert (figures["eval/accuracy"], figures["eval/failed"]) == (None, 2)
    assert loop.state.accuracy is None
    failed = [e for e in loop.run_dir.events() if e["kind"] == "failed_question"]
    assert [(e["step"], e["question"], e["reason"], e["evaluation"]) for e in failed] == [
        (0, "h:0", "audio", True),
        (0, "h:1", "audio", True),
        (10, "h:0", "audio", True),
        (20, "h:0", "audio", True),
        (20, "h:1", "audio", True),
    ]
    (cut,) = [e for e in loop.run_dir.events() if e["kind"] == "truncated_clip"]
    assert (cut["step"], cut["question"], cut["seconds"]) == (10, "h:1", 0.5)
