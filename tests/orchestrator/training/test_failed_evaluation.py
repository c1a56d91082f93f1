"""An evaluation that fails does not cost the steps before it."""

import asyncio
from pathlib import Path

import pytest

from audio_qa.question import Question
from learner.errors import LearnerLostError
from orchestrator.display.progress import make_progress
from orchestrator.job.spec import JobSpec
from orchestrator.run.checkpoints import Checkpoints
from orchestrator.run.directory import RunDirectory
from orchestrator.training.control import Control
from orchestrator.training.loop import Parts
from orchestrator.training.state import RunState
from orchestrator.training.supervised import SupervisedLoop
from protocol.training import Learned
from rollout_workers.errors import WeightsUnavailableError


class SavingLearner:
    """A learner that writes one file for a checkpoint."""

    weight_version = 7

    async def save(self, folder: str, *, state: bool) -> None:
        (Path(folder) / "model.safetensors").write_bytes(b"w")

    async def wait_saved(self) -> None: ...


@pytest.fixture
def loop(tmp_path) -> SupervisedLoop:
    run = RunDirectory.create(tmp_path / "run", "name: test\n")
    parts = Parts(
        spec=JobSpec.model_validate({"model": {"path": "m"}, "data": {"train": "t"}, "steps": 5}),
        train=[Question("d", 0, "0", "0.wav", "?", ("a", "b"), "a")],
        held_out=[],
        pool=None,
        learner=SavingLearner(),
        run_dir=run,
        checkpoints=Checkpoints(run, keep_last=0, keep_best=True),
        progress=make_progress("quiet"),
        state=RunState(),
        control=Control(run),
    )
    return SupervisedLoop(parts)


@pytest.mark.parametrize(
    ("error", "kept"), [(WeightsUnavailableError("no worker is left"), [5]), (LearnerLostError("a rank died"), [])]
)
def test_the_step_is_saved_before_the_job_ends(loop, monkeypatch, error, kept):
    """Unless the learner itself is lost: then the steps are done again from the last checkpoint."""

    async def fail(step: int) -> None:
        raise error

    monkeypatch.setattr(loop, "evaluate", fail)
    with pytest.raises(type(error), match=str(error)):
        asyncio.run(loop.record_step(5, {"step": 5}, Learned(1, {})))
    assert loop.checkpoints.steps() == kept
    if kept:
        state = loop.checkpoints.job(5)
        assert (state["step"], state["weight_version"], state["accuracy"]) == (5, 7, None)
        assert loop.run_dir.metrics() == [{"step": 5}]
        assert state["offsets"] == loop.run_dir.offsets()
