"""Checkpoints are complete or do not exist, and the right ones are kept."""

from pathlib import Path

import pytest

from orchestrator.driver.recovery import roll_back_to_checkpoint
from orchestrator.questions.ledger import Ledger
from orchestrator.run.checkpoints import Checkpoints
from orchestrator.run.directory import RunDirectory
from orchestrator.training.state import RunState


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", "name: test\n")


def commit(checkpoints: Checkpoints, step: int, accuracy: float | None = None) -> Path:
    (checkpoints.begin(step) / "model.safetensors").write_bytes(b"weights of %d" % step)
    return checkpoints.commit(step, RunState(step=step, accuracy=accuracy).to_dict())


def steps(run: RunDirectory) -> list[str]:
    return sorted(p.name for p in (run.path / "checkpoints").iterdir())


def test_a_folder_that_is_being_written_is_not_a_checkpoint(run):
    checkpoints = Checkpoints(run, keep_last=0, keep_best=False)
    commit(checkpoints, 1)
    partial = checkpoints.begin(2)
    (partial / "model.safetensors").write_bytes(b"half")
    assert checkpoints.latest() == 1
    assert checkpoints.steps() == [1]
    checkpoints.remove_partial()
    assert steps(run) == ["step-1"]


def test_a_folder_without_its_state_is_not_resumed_from(run):
    """A copied folder, say: only a commit makes a checkpoint."""
    checkpoints = Checkpoints(run, keep_last=0, keep_best=False)
    commit(checkpoints, 1)
    checkpoints.folder(9).mkdir()
    assert checkpoints.latest() == 1


def test_a_step_done_again_replaces_its_checkpoint(run):
    checkpoints = Checkpoints(run, keep_last=0, keep_best=False)
    commit(checkpoints, 1, accuracy=0.25)
    commit(checkpoints, 1, accuracy=0.5)
    assert checkpoints.job(1)["accuracy"] == 0.5
    assert steps(run) == ["step-1"]


@pytest.mark.parametrize(
    ("keep_last", "keep_best", "kept"),
    [
        (0, False, [0, 10, 20, 30, 40]),
        (2, False, [0, 30, 40]),
        (2, True, [0, 10, 30, 40]),
        (1, True, [0, 10, 40]),
    ],
)
def test_the_latest_and_the_best_are_kept_and_the_start_always(run, keep_last, keep_best, kept):
    checkpoints = Checkpoints(run, keep_last=keep_last, keep_best=keep_best)
    for step, accuracy in ((0, None), (10, 0.7), (20, 0.4), (30, None), (40, 0.6)):
        commit(checkpoints, step, accuracy)
    assert steps(run) == [f"step-{step}" for step in kept]
    assert checkpoints.best() == (10 if 10 in kept else 40)


def test_rolling_back_restores_the_ledger_and_the_files(run):
    checkpoints = Checkpoints(run, keep_last=0, keep_best=False)
    state = RunState()
    draw = state.ledger.draw("d:0")
    state.ledger.trained(draw)
    run.append_metrics({"step": 1})
    state.step, state.position, state.offsets = 1, 1, run.offsets()
    checkpoints.begin(1)
    checkpoints.commit(1, state.to_dict())
    state.ledger.failed(state.ledger.draw("d:1"), "audio")
    run.append_metrics({"step": 2})
    checkpoints.begin(2)
    roll_back_to_checkpoint(run, checkpoints, state)
    assert (state.step, state.position) == (1, 1)
    assert state.ledger.counts() == {
        "drawn": 1, "trained": 1, "zero_variance": 0, "stale": 0, "failed": 0, "in_flight": 0
    }  # fmt: skip
    assert run.metrics() == [{"step": 1}]
    assert steps(run) == ["step-1"]


def test_rolling_back_without_a_checkpoint_starts_over(run):
    state = RunState(step=3, position=9, weight_version=40)
    state.ledger.draw("d:0")
    run.append_metrics({"step": 1})
    roll_back_to_checkpoint(run, Checkpoints(run, keep_last=0, keep_best=False), state)
    assert state == RunState(ledger=state.ledger)
    assert state.ledger.counts() == Ledger().counts()
    assert run.metrics() == []


def test_a_state_survives_json(run):
    import json

    state = RunState(step=2, position=5, weight_version=7, offsets={"metrics.jsonl": 12}, accuracy=0.5)
    state.ledger.draw("d:0")
    again = RunState()
    again.restore(json.loads(json.dumps(state.to_dict())))
    assert again.to_dict() == state.to_dict()
