"""Restarts of the learner: when new ranks are started, with which settings, and when the job fails."""

import asyncio
from types import SimpleNamespace

import pytest

from learner.errors import LearnerError, LearnerLostError, LearnerMemoryError
from orchestrator.cluster.placement import Bundles
from orchestrator.display.progress import make_progress
from orchestrator.driver import recovery
from orchestrator.job.spec import JobSpec
from orchestrator.preflight.prepare import Prepared
from orchestrator.run.directory import RunDirectory
from orchestrator.training.control import Control
from orchestrator.training.state import RunState
from protocol.weights import Carrier


class FailingLearner:
    """A stand-in for the ranks: each one fails at its start with the next of `errors`, if any is left."""

    def __init__(self, settings, **_) -> None:
        self.settings = settings
        made.append(self)

    async def start(self) -> None:
        if errors:
            raise errors.pop(0)

    async def stop(self) -> None:
        self.stopped = True

    async def publish(self, carrier: Carrier) -> "FailingLearner":
        return self


class EnoughRoom:
    """A stand-in for a cluster that has room for everything."""

    def hold(self, part: str) -> None:
        """Nothing waits."""

    def reserve(self, part: str, bundles: Bundles) -> SimpleNamespace:
        async def nodes() -> list[str]:
            return ["node"] * len(bundles.needs)

        return SimpleNamespace(bundles=bundles, place=lambda rank: None, nodes=nodes)

    def give_back(self, reservation: SimpleNamespace) -> None:
        """Nothing is left."""

    async def wait(self, part: str, reservation: SimpleNamespace, seconds: float, **_: bool) -> bool:
        return True


class NoRoom(EnoughRoom):
    """A cluster that could never hold the ranks."""

    async def wait(self, part: str, reservation: SimpleNamespace, seconds: float, **_: bool) -> bool:
        reservation.needs = "1 CPU"
        return False


made: list[FailingLearner] = []
errors: list[Exception] = []
carriers: list[tuple] = []
"""The arguments of each `use_weight_sync`."""


@pytest.fixture
def attempts(tmp_path, monkeypatch):
    """Returns a function that runs a job of at most two restarts until its ranks have started."""
    monkeypatch.setattr(recovery, "LearnerGroup", FailingLearner)
    monkeypatch.setattr(recovery, "_FIRST_BACK_OFF_SECONDS", 0.01)

    async def done(self, workers):
        await workers

    monkeypatch.setattr(recovery.LearnerSupervisor, "_run_attempt", done)
    model = {"path": "builtin:tiny-qwen2-audio", "max_context": 512}
    learner = {"max_restarts": 2, "micro_batch_tokens": 1000}
    spec = JobSpec.model_validate({"model": model, "data": {"train": "t"}, "learner": learner})
    prepared = Prepared(spec, "m", (), (), None, True, 0)
    run = RunDirectory.create(tmp_path / "run", "name: test\n")

    def run_job(*given: Exception, room: EnoughRoom | None = None) -> list[dict]:
        made.clear()
        carriers.clear()
        errors[:] = given
        pool = SimpleNamespace(use_weight_sync=lambda *given: carriers.append(given))
        progress = make_progress("quiet")
        room = room or EnoughRoom()
        job = recovery.LearnerSupervisor(prepared, run, RunState(), progress, pool, None, Control(run), room)

        async def play() -> None:
            await job.run(asyncio.ensure_future(asyncio.sleep(0)))

        try:
            asyncio.run(play())
        finally:
            assert all(learner.stopped for learner in made[:-1])
        return run.events()

    return run_job


def test_ranks_that_are_lost_are_replaced_as_often_as_allowed(attempts):
    events = attempts(LearnerLostError("one"), LearnerLostError("two"))
    assert len(made) == 3
    assert [e.get("cause") for e in events if e.get("state") == "recovering"] == ["one", "two"]


def test_each_learner_brings_a_carrier_of_its_own(attempts):
    """A group or a socket of ranks that are gone is not used again."""
    attempts(LearnerLostError("one"))
    (first, _), (second, republish) = carriers
    assert first is not second
    assert asyncio.run(republish()) is made[1]


def test_a_call_of_earlier_ranks_that_fails_late_does_not_end_the_next_ones(attempts, monkeypatch):
    async def attempt(job, workers):
        await workers
        if len(made) == 1:
            raise LearnerLostError("one")
        (_, earlier), (_, current) = carriers
        await asyncio.gather(earlier(), return_exceptions=True)
        await job._while_not_lost(asyncio.sleep(0.01))
        running = job._while_not_lost(asyncio.sleep(60))
        seen.extend(await asyncio.gather(current(), running, return_exceptions=True))

    async def publish(self, carrier):
        raise LearnerLostError(f"ranks {made.index(self)} are gone")

    seen: list[BaseException] = []
    monkeypatch.setattr(recovery.LearnerSupervisor, "_run_attempt", attempt)
    monkeypatch.setattr(FailingLearner, "publish", publish)
    attempts()
    assert [str(error) for error in seen] == ["ranks 1 are gone"] * 2


def test_more_often_ends_the_job_with_the_last_cause(attempts):
    with pytest.raises(LearnerLostError, match="three"):
        attempts(LearnerLostError("one"), LearnerLostError("two"), LearnerLostError("three"))


def test_ranks_that_no_cluster_could_hold_are_a_failure(attempts):
    with pytest.raises(LearnerLostError, match="it needs 1 CPU, and the nodes do not have as much"):
        attempts(room=NoRoom())
    assert not made


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
