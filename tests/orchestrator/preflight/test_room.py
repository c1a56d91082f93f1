"""A job whose checkpoints do not fit the disk, or whose folder cannot be written, is refused before it starts."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.job.memory.published import PUBLISHED, TINY_SIZES
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError, dump_spec
from orchestrator.preflight import room
from orchestrator.preflight.plan import plan
from orchestrator.preflight.room import CheckpointRoom, check_room, checkpoint_room
from orchestrator.run.checkpoints import checkpoints_of
from orchestrator.run.directory import RunDirectory
from orchestrator.training.state import RunState

QWEN = PUBLISHED["Qwen2-Audio-7B"]
GIB = 2**30


def job(steps: int = 1000, **options) -> JobSpec:
    data = {"train": "builtin:synthetic", "evaluation": "builtin:synthetic", "unlabelled": False}
    model = {"path": "builtin:tiny-qwen2-audio", "max_context": 512}
    return JobSpec.model_validate({"model": model, "data": data, "steps": steps, **options})


@pytest.fixture
def disk(monkeypatch):
    """Set the free bytes of every disk."""

    def set_free(gib: float) -> None:
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, int(gib * GIB)))

    return set_free


@pytest.mark.parametrize(
    ("options", "done", "most"),
    [
        ({"checkpoint": {"every": 100}}, (), 10),
        ({"checkpoint": {"every": 300}}, (), 4),
        ({"checkpoint": {"every": 0}}, (), 1),
        # Two, the best one, and the one that is being written.
        ({"checkpoint": {"every": 100, "keep_last": 2}}, (), 4),
        ({"checkpoint": {"every": 100, "keep_last": 2, "keep_best": False}}, (), 3),
        ({"checkpoint": {"every": 100, "keep_last": 20}}, (), 10),
        ({"checkpoint": {"every": 100}}, (100, 200, 300), 7),
        ({"checkpoint": {"every": 100, "keep_last": 2}}, (100, 400, 500), 1),
        ({"checkpoint": {"every": 100}}, (1000,), 0),
        ({"method": "evaluate", "steps": 0}, (), 0),
    ],
)
def test_the_most_checkpoints_at_one_time(options, done, most):
    assert checkpoint_room(job(**options), TINY_SIZES, done).most == most


def test_the_size_of_a_checkpoint():
    """Float32: 4 bytes of weights and 12 of state a parameter; with adapters, little state."""
    parameters = TINY_SIZES.total
    assert checkpoint_room(job(), TINY_SIZES).each == 16 * parameters
    adapters = checkpoint_room(job(learner={"lora": {"rank": 1, "alpha": 1}}), TINY_SIZES).each
    assert 4 * parameters < adapters < 5 * parameters
    warm = job(warm_start={"questions": 4, "steps": 4})
    assert checkpoint_room(warm, TINY_SIZES).start == 4 * parameters
    assert checkpoint_room(warm, TINY_SIZES, (0, 100)).start == 0
    seven = checkpoint_room(job(steps=1, learner={"dtype": "bfloat16"}), QWEN)
    assert seven == CheckpointRoom(14 * QWEN.total, 1, 0)
    assert 105 < seven.total / GIB < 115


def test_a_full_disk_is_refused_with_both_figures(disk, tmp_path):
    spec = job(learner={"dtype": "bfloat16"}, checkpoint={"every": 100, "keep_last": 1, "keep_best": False})
    disk(219)
    check_room(spec, QWEN, tmp_path / "runs" / "new")
    disk(150)
    with pytest.raises(SpecError) as found:
        check_room(spec, QWEN, tmp_path / "runs" / "new")
    assert "up to 2 checkpoints of 109.5 GiB, 219.0 GiB in all" in str(found.value)
    assert "150.0 GiB free" in str(found.value)
    assert "keep_last" in str(found.value)
    assert "\n" not in str(found.value)


def test_a_resumed_run_needs_less_and_what_a_crash_left_counts_as_free(disk, tmp_path):
    spec = job(checkpoint={"every": 100, "keep_last": 1, "keep_best": False})
    each = checkpoint_room(spec, TINY_SIZES).each
    run = RunDirectory.create(tmp_path / "run", dump_spec(spec))
    checkpoints = checkpoints_of(run, spec)
    disk((2 * each - 10) / GIB)
    with pytest.raises(SpecError, match="up to 2 checkpoints of"):
        check_room(spec, TINY_SIZES, run.path)
    (checkpoints.begin_trial() / "model.safetensors").write_bytes(b"w" * 10)
    check_room(spec, TINY_SIZES, run.path)
    checkpoints.begin(100)
    checkpoints.commit(100, RunState(step=100).to_dict())
    checkpoints.remove_partial()
    disk((each + 10) / GIB)
    check_room(spec, TINY_SIZES, run.path)
    disk((each - 10) / GIB)
    with pytest.raises(SpecError, match="up to 1 checkpoint of"):
        check_room(spec, TINY_SIZES, run.path)


def test_checkpoints_on_another_disk_count_there(monkeypatch, tmp_path):
    seen: list[Path] = []
    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda place: (seen.append(place), real(place))[1])
    (tmp_path / "run").mkdir()
    (tmp_path / "large").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "large")
    check_room(job(steps=1), TINY_SIZES, tmp_path / "run")
    assert seen == [tmp_path / "run" / "checkpoints"]


def test_a_place_that_cannot_be_written_is_refused(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError, match="is a file"):
        check_room(job(), TINY_SIZES, tmp_path / "file" / "run")
    monkeypatch.setattr(room.os, "access", lambda *_: False)
    with pytest.raises(SpecError, match="nothing can be written"):
        check_room(job(), TINY_SIZES, tmp_path / "runs" / "new")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_plan_has_the_figures_and_warns(disk, tmp_path):
    disk(0.01)
    planned = plan(job(), tmp_path / "run")
    assert planned["checkpoint_gib"] == {"each": 0.04, "most": 10, "total": 0.37}
    assert "0.01 GiB free" in planned["disk_warnings"][0]
    disk(1)
    assert plan(job(), tmp_path / "run")["disk_warnings"] == []


def test_the_command_refuses_before_it_makes_a_run(disk, tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text(
        "steps: 10\nmodel: {path: builtin:tiny-qwen2-audio, max_context: 512}\ndata: {train: builtin:synthetic}\n"
    )
    disk(0.001)
    done = CliRunner().invoke(app, ["run", str(file), "--run-dir", str(tmp_path / "run")])
    assert (done.exit_code, "up to 1 checkpoint of 0.04 GiB" in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "run").exists()
