"""A checkpoint is tried before the first step; the trial is not a checkpoint, and leaves nothing."""

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from learner.errors import CheckpointTrialError, LearnerError, LearnerLostError
from orchestrator.display.progress import make_progress
from orchestrator.run.checkpoints import Checkpoints
from orchestrator.run.copies import copy_run
from orchestrator.run.directory import RunDirectory
from orchestrator.training.state import RunState
from orchestrator.training.trial import CheckpointTrial


class WritingLearner:
    """A learner that writes one file, and whose calls fail as told."""

    def __init__(self, **errors: Exception) -> None:
        self.errors = errors
        self.folders: list[Path] = []

    async def save(self, folder: str, *, state: bool) -> None:
        assert state
        self.folders.append(Path(folder))
        (Path(folder) / "model.safetensors").write_bytes(b"w" * 1000)
        self._fail("save")

    async def wait_saved(self) -> None:
        self._fail("wait_saved")

    async def check_saved(self, folder: str) -> None:
        assert sorted(path.name for path in Path(folder).iterdir()) == ["model.safetensors", "training_state"]
        self._fail("check_saved")

    def _fail(self, name: str) -> None:
        if name in self.errors:
            raise self.errors[name]


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", "name: test\n")


def checkpoints_in(run: RunDirectory) -> Checkpoints:
    return Checkpoints(run, keep_last=1, keep_best=False)


def trial_of(run: RunDirectory, *, links: bool = False) -> CheckpointTrial:
    return CheckpointTrial(run, checkpoints_in(run), make_progress("quiet"), links=links)


def left(run: RunDirectory) -> list[str]:
    return [path.name for path in checkpoints_in(run).home.iterdir()]


@pytest.mark.parametrize("links", [False, True])
def test_a_trial_is_recorded_and_removed_and_not_repeated(run, links):
    learner, trial = WritingLearner(), trial_of(run, links=links)
    for _ in range(2):
        asyncio.run(trial.run(learner, RunState().to_dict()))
    (event,) = run.events()
    assert (event["kind"], event["bytes"] > 1000, event["seconds"] < 5) == ("checkpoint_tried", True, True)
    assert left(run) == []
    assert len(learner.folders) == 1


@pytest.mark.parametrize(("free", "fits"), [(9_999, False), (10_000, True)])
def test_a_later_checkpoint_needs_room_for_the_optimizer_too(run, monkeypatch, free, fits):
    trial = CheckpointTrial(run, checkpoints_in(run), make_progress("quiet"), links=False, later_bytes=10_000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    if fits:
        asyncio.run(trial.run(WritingLearner(), RunState().to_dict()))
    else:
        with pytest.raises(CheckpointTrialError, match="GiB are needed once the optimizer has taken a step"):
            asyncio.run(trial.run(WritingLearner(), RunState().to_dict()))
    assert left(run) == []


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("save", OSError(28, "No space left on device")),
        ("wait_saved", LearnerError("a learner rank failed in 'wait_saved': OSError: No space\nleft on device")),
        ("check_saved", LearnerError("a learner rank failed in 'check_saved': …: No space left on device")),
    ],
)
def test_a_failed_trial_ends_the_job_with_one_line(run, call, error):
    with pytest.raises(CheckpointTrialError, match=r"so no step was taken: .*No space left on device.* GiB") as found:
        asyncio.run(trial_of(run).run(WritingLearner(**{call: error}), {}))
    assert "\n" not in str(found.value)
    assert str(checkpoints_in(run).home) in str(found.value)
    assert left(run) == []
    assert run.events() == []


def test_a_folder_that_cannot_be_made_is_named(run):
    checkpoints_in(run).home.write_text("a file")
    with pytest.raises(CheckpointTrialError, match="checkpoints"):
        asyncio.run(trial_of(run).run(WritingLearner(), {}))


def test_a_file_system_without_hard_links_is_found_if_the_run_is_stored(run, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    asyncio.run(trial_of(run).run(WritingLearner(), {}))
    with pytest.raises(CheckpointTrialError, match="Operation not permitted"):
        asyncio.run(trial_of(run, links=True).run(WritingLearner(), {}))


def test_ranks_that_were_lost_are_replaced_and_try_again(run):
    trial = trial_of(run)
    with pytest.raises(LearnerLostError):
        asyncio.run(trial.run(WritingLearner(wait_saved=LearnerLostError("a rank died")), {}))
    asyncio.run(trial.run(WritingLearner(), {}))
    assert [event["kind"] for event in run.events()] == ["checkpoint_tried"]


def test_a_trial_that_was_killed_is_no_checkpoint_and_is_removed_at_the_next_start(run, tmp_path):
    checkpoints = checkpoints_in(run)
    folder = checkpoints.begin_trial()
    (folder / "model.safetensors").write_bytes(b"w")
    # As far as a trial gets: with the job's state, under its other name.
    (folder / "training_state" / "job.json").write_text("{}")
    folder.rename(folder.with_name(".trial-renamed"))
    checkpoints.begin_trial()
    (checkpoints.begin(1) / "model.safetensors").write_bytes(b"w")
    checkpoints.commit(1, RunState(step=1).to_dict())
    assert checkpoints.steps() == [1]
    copied = copy_run(run.path, tmp_path / "copy", "runs/run")
    assert {name for name in copied if "trial" in name} == set()
    checkpoints.begin_trial().parent.joinpath(".trial-renamed").mkdir()
    checkpoints.remove_partial()
    assert left(run) == ["step-1"]
