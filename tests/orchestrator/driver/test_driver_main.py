"""The driver, up to the point where it starts Ray."""

import pytest
from ray.exceptions import RayActorError

from orchestrator.driver import driver
from orchestrator.driver import main as driver_main
from orchestrator.driver.session import ClusterUnreachableError
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError, dump_spec
from orchestrator.run import exit_codes
from orchestrator.run.checkpoints import Checkpoints
from orchestrator.run.directory import RunDirectory
from orchestrator.storage.location import DamagedError, StorageError
from orchestrator.training.state import RunState


@pytest.fixture
def spec(tiny_folder, benchmark_home) -> JobSpec:
    value = {
        "steps": 2,
        "model": {"path": str(tiny_folder), "max_context": 256},
        "data": {"train": str(benchmark_home / "train.jsonl")},
        "rollout": {"max_tokens": 8},
    }
    return JobSpec.model_validate(value)


def kinds(run: RunDirectory) -> list[str]:
    return [event["kind"] for event in run.events()]


def test_bad_input_has_an_exit_code_of_its_own(spec, tmp_path, capsys) -> None:
    missing = spec.model_copy(update={"data": spec.data.model_copy(update={"train": "/nowhere.jsonl"})})
    run = RunDirectory.create(tmp_path / "run", dump_spec(missing))
    assert driver_main.main(run.path, "j-1") == exit_codes.BAD_INPUT
    assert kinds(run) == ["attempt", "error"]
    assert "/nowhere.jsonl" in run.events()[-1]["message"]
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SpecError("found out too late"), exit_codes.FAILED),
        (StorageError("the bucket does not answer"), exit_codes.LOST),
        (DamagedError("model.safetensors has other bytes"), exit_codes.FAILED),
        (RayActorError(), exit_codes.LOST),
        (ClusterUnreachableError("no node answers"), exit_codes.NOT_BEGUN),
    ],
)
def test_what_a_started_job_raises_decides_whether_it_is_tried_again(
    spec, tmp_path, monkeypatch, error: Exception, code: int
) -> None:
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(driver, "ray_session", fail)
    run = RunDirectory.create(tmp_path / "run", dump_spec(spec))
    assert driver_main.main(run.path, "j-1") == code
    assert kinds(run).count("error") == 1
    assert run.events()[-1] | {"time": None} == {"time": None, "kind": "state", "state": "failed"}


def test_a_driver_that_died_after_its_last_checkpoint_has_nothing_left_to_do(spec, tmp_path) -> None:
    run = RunDirectory.create(tmp_path / "run", dump_spec(spec))
    run.append_event("attempt", submission_id="j-1", pid=1)
    checkpoints = Checkpoints(run, keep_last=0, keep_best=True)
    run.append_metrics({"step": 1})
    run.append_metrics({"step": 2})
    checkpoints.begin(2)
    checkpoints.commit(2, {**RunState(step=2).to_dict(), "offsets": run.offsets()})
    assert driver_main.main(run.path, "j-2") == exit_codes.SUCCEEDED
    assert run.events()[-1]["state"] == "succeeded"
    assert run.summary()["steps"] == 2
    assert run.report_file.exists()


def test_two_drivers_do_not_write_one_run_directory(spec, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(driver_main, "_LOCK_SECONDS", 0.3)
    run = RunDirectory.create(tmp_path / "run", dump_spec(spec))
    with run.lock():
        assert driver_main.main(run.path, "j-2") == exit_codes.NOT_BEGUN
    assert kinds(run) == []
