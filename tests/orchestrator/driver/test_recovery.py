"""When new ranks are started, with what, and when the job is given up. The ranks here only fail."""

import asyncio
from types import SimpleNamespace

import pytest

from learner.errors import LearnerError, LearnerLostError, LearnerMemoryError
from orchestrator.display.progress import make_progress
from orchestrator.driver import recovery
from orchestrator.job.spec import JobSpec
from orchestrator.preflight.prepare import Prepared
from orchestrator.run.directory import RunDirectory
from orchestrator.training.control import Control
from orchestrator.training.state import RunState


class FailingLearner:
    """Stands in for the ranks: each one that is made fails at its start with the next of `errors`, or does not."""

    def __init__(self, settings, **_) -> None:
        self.settings = settings
        made.append(self)

    async def start(self) -> None:
        if errors:
            raise errors.pop(0)

    async def stop(self) -> None:
        self.stopped = True


made: list[FailingLearner] = []
errors: list[Exception] = []


@pytest.fixture
def attempts(tmp_path, monkeypatch):
    """A job of at most two restarts; `go` returns where its ranks have started."""
    monkeypatch.setattr(recovery, "LearnerGroup", FailingLearner)
    monkeypatch.setattr(recovery, "_FIRST_BACK_OFF_SECONDS", 0.01)

    async def done(self, workers):
        await workers

    monkeypatch.setattr(recovery.Attempts, "_attempt", done)
    spec = JobSpec.model_validate(
        {"model": {"path": "m"}, "data": {"train": "t"}, "learner": {"max_restarts": 2, "micro_batch_tokens": 1000}}
    )
    prepared = Prepared(spec, "m", (), (), None, True, 0)
    run = RunDirectory.create(tmp_path / "run", "name: test\n")

    def go(*given: Exception) -> list[dict]:
        made.clear()
        errors[:] = given
        pool = SimpleNamespace(carry_with=lambda *_: None)
        job = recovery.Attempts(prepared, run, RunState(), make_progress("quiet"), pool, None, Control(run))

        async def play() -> None:
            await job.go(asyncio.sleep(0))

        try:
            asyncio.run(play())
        finally:
            assert all(learner.stopped for learner in made[:-1])
        return run.events()

    return go


def test_ranks_that_are_lost_are_replaced_as_often_as_allowed(attempts):
    events = attempts(LearnerLostError("one"), LearnerLostError("two"))
    assert len(made) == 3
    assert [e.get("cause") for e in events if e.get("state") == "recovering"] == ["one", "two"]


def test_more_often_ends_the_job_with_the_last_cause(attempts):
    with pytest.raises(LearnerLostError, match="three"):
        attempts(LearnerLostError("one"), LearnerLostError("two"), LearnerLostError("three"))


def test_a_failure_of_the_code_is_not_repeated(attempts):
    with pytest.raises(LearnerError, match="bug"):
        attempts(LearnerError("bug"))
    assert len(made) == 1


def test_a_batch_that_does_not_fit_is_cut_smaller_once(attempts):
    events = attempts(LearnerMemoryError("too large", tokens=900))
    assert [learner.settings.micro_batch_tokens for learner in made] == [1000, 450]
    assert [e["micro_batch_tokens"] for e in events if e["kind"] == "batch_cut_smaller"] == [450]
    with pytest.raises(LearnerMemoryError, match="still"):
        attempts(LearnerMemoryError("too large", tokens=900), LearnerMemoryError("still", tokens=450))
