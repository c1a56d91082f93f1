"""Inputs that moved, runs of earlier versions, and the drivers of the service."""

import json
import shutil
from typing import Any

import pytest
import yaml
from support.runs.resumed_job import (
    INPUTS,
    begun,
    home,
    job_of,
    other_answers,
    other_code,
    other_weights,
    recorded,
    resumed,
    stops_before_ray,
)

from orchestrator.driver import main as driver_main
from orchestrator.driver.resume import check_inputs
from orchestrator.job.spec_file import SpecError, dump_spec, read_spec
from orchestrator.preflight.inputs import recorded_inputs
from orchestrator.preflight.prepare import prepare
from orchestrator.run import exit_codes
from orchestrator.run.checkpoints import checkpoints_of
from orchestrator.run.directory import RunDirectory
from orchestrator.run.records import RunDirectoryError
from orchestrator.training.state import RunState

__all__ = ["home", "stops_before_ray"]


def test_moving_everything_changes_nothing(home, tmp_path, monkeypatch):
    begun(home)
    other = tmp_path / "elsewhere" / "deeper"
    shutil.copytree(home, other)
    home.rename(tmp_path / "away")
    monkeypatch.syspath_prepend(other / "code")
    code, said = resumed(other)
    assert code is None, said
    events = RunDirectory(other / "run").events()
    assert not [event for event in events if event["kind"] == "inputs_changed"]
    assert read_spec(other / "run" / "job.yaml").model.path == str(other / "model")


def test_another_path_with_other_content_is_refused(home):
    begun(home)
    job = yaml.safe_load((home / "job.yaml").read_text())
    (home / "job.yaml").write_text(yaml.safe_dump(job | {"data": {"train": "data/heldout.jsonl"}, "seed": 42}))
    code, said = resumed(home)
    assert code == 2
    assert "other values of data.curriculum" in said
    del job["data"]["evaluation"]
    (home / "job.yaml").write_text(yaml.safe_dump(job))
    code, said = resumed(home)
    assert code == 2
    assert "(3 questions), is none" in said


def test_a_run_of_an_earlier_version_is_compared_by_its_question_files(home):
    run = begun(home)
    run.inputs_file.unlink()
    other_weights(home)
    code, said = resumed(home)
    assert code is None
    assert "not compared with what the run began with" in said
    (event,) = [event for event in run.events() if event["kind"] == "resumed"]
    assert event["not_compared"] == [name for name in INPUTS if name not in ("data.train", "data.evaluation")]
    assert list(recorded(run).inputs) == INPUTS
    run.inputs_file.unlink()
    other_answers(home)
    code, said = resumed(home)
    assert code == 2
    assert f"data.train ({str(home / 'data' / 'train.jsonl')!r}) was" in said
    assert not run.inputs_file.exists()


def test_reward_code_that_is_elsewhere_is_noted(home, monkeypatch):
    """The driver's machine need not have the code of the reward actor's."""
    run = begun(home)
    was = recorded(run).inputs
    (home / "code").rename(home / "away")
    assert resumed(home)[0] is None
    assert next(e for e in run.events() if e["kind"] == "resumed")["not_compared"] == ["reward code my_rules"]
    assert recorded(run).inputs == was
    (home / "away").rename(home / "code")
    other_code(home)
    assert resumed(home)[0] == 2


def test_a_damaged_record_is_named(home):
    run = begun(home)
    run.inputs_file.write_text('{"rule": 1, "inputs": {"data.train": 3}}')
    code, said = resumed(home)
    assert code == 2
    assert "inputs.json' lacks digests" in " ".join(said.split()).replace(":", "")
    with pytest.raises(RunDirectoryError, match="restore the file, or remove it"):
        recorded_inputs(run)


def test_a_driver_of_the_service_fails_with_the_line_and_is_not_tried_again(home):
    spec = job_of(home)
    run = RunDirectory.create(home / "run", dump_spec(spec))
    assert driver_main.main(run.path, "j-1") == exit_codes.FAILED
    assert run.inputs_file.is_file()
    # A second attempt with the same inputs comes as far as the first.
    assert driver_main.main(run.path, "j-2") == exit_codes.FAILED
    assert run.events()[-2]["error"] == "StoppedError"
    other_answers(home)
    assert driver_main.main(run.path, "j-3") == exit_codes.BAD_INPUT
    last = run.events()[-1]
    assert (last["kind"], last["error"]) == ("error", "SpecError")
    assert "data.train" in last["message"]
    assert "submit a new job" in last["message"]


def test_a_finished_job_is_not_failed_by_what_changed_since(home):
    spec = job_of(home)
    run = RunDirectory.create(home / "run", dump_spec(spec))
    assert driver_main.main(run.path, "j-1") == exit_codes.FAILED
    checkpoints = checkpoints_of(run, spec)
    checkpoints.begin(4)
    checkpoints.commit(4, RunState(step=4).to_dict())
    other_code(home)
    assert driver_main.main(run.path, "j-2") == exit_codes.SUCCEEDED


def test_another_version_of_earshot_is_noted(home, monkeypatch):
    run = begun(home)
    record: dict[str, Any] = json.loads(run.inputs_file.read_text())
    run.write_inputs(record | {"earshot": "0.0.9"})
    noted = check_inputs(run, prepare(job_of(home), lambda *_: None), "mend it")
    assert noted == {"earshot": "0.0.9"}
    run.write_inputs(record | {"earshot": "0.0.9"})
    other_answers(home)
    with pytest.raises(SpecError, match=r"other inputs \(recorded by Earshot 0\.0\.9\): data\.train .*; mend it$"):
        check_inputs(run, prepare(job_of(home), lambda *_: None), "mend it")


def test_a_question_file_of_another_name_is_refused_with_both_names(home):
    """Its name is part of the questions' keys, by which the ledger and the solve rates count."""
    begun(home)
    (home / "data" / "train.jsonl").rename(home / "data" / "better.jsonl")
    job = yaml.safe_load((home / "job.yaml").read_text())
    (home / "job.yaml").write_text(yaml.safe_dump(job | {"data": job["data"] | {"train": "data/better.jsonl"}}))
    code, said = resumed(home)
    assert code == 2
    data = home / "data"
    assert f"data.train ('{data / 'better.jsonl'}', was '{data / 'train.jsonl'}') was " in said
