"""Every step reaches every tracker once, in order; a failing tracker has no effect on the job or on the others."""

import asyncio
import struct
from pathlib import Path

import pytest
from tensorboardX.proto import event_pb2

from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError
from orchestrator.run.directory import RunDirectory
from orchestrator.tracking import following as module
from orchestrator.tracking.following import RunTrackers, check_tracking, follow, trackers_of


def spec_with(**tracking):
    value = {"model": {"path": "builtin:tiny-qwen2-audio"}, "data": {"train": "builtin:synthetic"}}
    return JobSpec.model_validate({**value, "tracking": tracking})


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path / "run", "name: test\n")


def scalars(run_dir: Path) -> dict[tuple[str, int], float]:
    """Return the scalars that TensorBoard shows: of steps done again, the later ones."""
    found: dict[tuple[str, int], float] = {}
    for path in sorted((run_dir / "tensorboard").glob("events.*")):
        data, place = path.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            event = event_pb2.Event.FromString(data[place + 12 : place + 12 + length])
            place += 16 + length
            if event.HasField("session_log"):
                found = {key: value for key, value in found.items() if key[1] < event.step}
            for value in event.summary.value:
                found[value.tag, event.step] = round(value.simple_value, 4)
    return found


def test_tensorboard_holds_the_run_as_it_is(run):
    trackers = RunTrackers(run, trackers_of(spec_with(), run.path))
    run.append_metrics({"step": 1, "reward/mean": 0.5, "kl/ref": None})
    trackers.log_new()
    offsets = run.offsets()
    run.append_metrics({"step": 2, "reward/mean": 0.75})
    run.append_metrics({"step": 3, "reward/mean": 0.9})
    trackers.log_new()
    run.roll_back(offsets)
    trackers.log_new()
    run.append_metrics({"step": 2, "reward/mean": 0.25})
    trackers.close()
    assert scalars(run.path) == {("reward/mean", 1): 0.5, ("reward/mean", 2): 0.25}
    run.append_metrics({"step": 3, "reward/mean": 1.0})
    RunTrackers(run, trackers_of(spec_with(), run.path)).close()
    assert scalars(run.path) == {("reward/mean", 1): 0.5, ("reward/mean", 2): 0.25, ("reward/mean", 3): 1.0}


class Broken:
    name = "broken"

    def log(self, step, metrics):
        raise OSError("no network")

    def close(self):
        raise AssertionError("is not called again")


def test_a_tracker_that_fails_is_an_event_and_not_used_again(run):
    makes = {**trackers_of(spec_with(), run.path), "broken": Broken}
    trackers = RunTrackers(run, makes)
    for step in (1, 2):
        run.append_metrics({"step": step, "reward/mean": 0.5})
        trackers.log_new()
    trackers.close()
    assert [e["tracker"] for e in run.events() if e["kind"] == "tracker_failed"] == ["broken"]
    assert len(scalars(run.path)) == 2


def test_the_remaining_metrics_are_logged_when_the_job_ends(run, monkeypatch):
    monkeypatch.setattr(module, "_POLL_SECONDS", 30)

    async def job():
        tracking = asyncio.ensure_future(follow(run, spec_with()))
        await asyncio.sleep(0.2)
        run.append_metrics({"step": 1, "reward/mean": 0.5})
        tracking.cancel()
        await asyncio.wait([tracking])

    asyncio.run(job())
    assert scalars(run.path) == {("reward/mean", 1): 0.5}


def test_mlflow_without_a_server(run, monkeypatch):
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    trackers = RunTrackers(run, trackers_of(spec_with(mlflow={"experiment": "mine"}), run.path))
    for step in (1, 2, 3):
        run.append_metrics({"step": step, "reward/mean": step / 4, "kl/ref": None})
        trackers.log_new()
    trackers.close()
    assert [e for e in run.events() if e["kind"] == "tracker_failed"] == []
    client = tracking.MlflowClient(tracking_uri=f"sqlite:///{run.path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("mine")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.data.params["rollout.group_size"] == "8"
    assert [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, "reward/mean")] == [
        (1, 0.25), (2, 0.5), (3, 0.75),
    ]  # fmt: skip
    assert found.info.status == "FINISHED"


def test_weights_and_biases_offline(run):
    pytest.importorskip("wandb")
    trackers = RunTrackers(run, trackers_of(spec_with(wandb={"project": "p", "offline": True}), run.path))
    for step in (1, 2):
        run.append_metrics({"step": step, "reward/mean": step / 4})
        trackers.log_new()
    trackers.close()
    assert [e for e in run.events() if e["kind"] == "tracker_failed"] == []
    (written,) = (run.path / "wandb").glob("offline-run-*/*.wandb")
    assert b"reward/mean" in written.read_bytes()


def test_a_tracker_that_is_not_installed_is_bad_input(monkeypatch):
    check_tracking(spec_with())
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SpecError, match="is not installed"):
        check_tracking(spec_with(wandb={}))
