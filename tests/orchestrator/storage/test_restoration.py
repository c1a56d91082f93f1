"""A run whose directory is lost or out of date continues from its stored copy."""

import json
import shutil
from pathlib import Path

import fsspec
import pytest
from support.storage import commit, contents, new_run, spec_with, stored_at

from orchestrator.driver import main as driver_main
from orchestrator.driver.recovery import roll_back_to_checkpoint
from orchestrator.driver.resume import check_resumable
from orchestrator.driver.run_storage import find_stored, is_finished_but_unstored, store_finished
from orchestrator.job.spec_file import SpecError, dump_spec
from orchestrator.run import exit_codes
from orchestrator.run.checkpoints import checkpoints_of
from orchestrator.run.commands import CommandKind
from orchestrator.run.directory import RunDirectory
from orchestrator.run.mailbox import Mailbox, send
from orchestrator.service.supervision.run_watch import RunWatch
from orchestrator.storage import mirror as mirrors
from orchestrator.storage.location import DamagedError, Location, StorageError
from orchestrator.storage.mirror import mirrored
from orchestrator.storage.restoration import catch_up, create_local, newest_stored
from orchestrator.storage.stored_run import stored_run
from orchestrator.training.state import RunState


@pytest.fixture
def original(storage, tmp_path) -> RunDirectory:
    """A run of ten steps with four stored checkpoints, which was lost after one more line."""
    spec = spec_with(storage)
    run = new_run(tmp_path / "first" / "my-run", spec)
    with mirrored(run, spec) as store:
        run.append_event("state", state="running")
        for step, accuracy in ((0, None), (4, 0.9), (7, None), (10, 0.2)):
            commit(run, checkpoints_of(run, spec), step, accuracy)
        run.append_metrics({"step": 11})
        store()
    return run


def here(tmp_path: Path, storage: str) -> tuple:
    path = tmp_path / "second" / "my-run"
    create_local(storage, path)
    spec = spec_with(storage)
    return RunDirectory(path), stored_run(spec, path), checkpoints_of(RunDirectory(path), spec)


def test_a_lost_run_is_brought_to_its_newest_checkpoint(original, storage, tmp_path):
    run, stored, checkpoints = here(tmp_path, storage)
    assert run.job_file.read_bytes() == original.job_file.read_bytes()
    assert newest_stored(stored) == 10
    assert catch_up(run, stored, checkpoints) == 10
    # With step 0 and the best one.
    assert checkpoints.steps() == [0, 4, 10]
    assert checkpoints.best() == 4
    for step in checkpoints.steps():
        assert contents(checkpoints.folder(step)) == contents(checkpoints_of(original, spec_with(storage)).folder(step))
    state = RunState()
    roll_back_to_checkpoint(run, checkpoints, state)
    assert state.step == 10
    assert run.metrics() == original.metrics()[:10]
    assert [e["kind"] for e in run.events()][-1] == "fetched"
    assert run.events()[0] == original.events()[0]
    assert catch_up(run, stored, checkpoints) is None


def test_commands_that_were_sent_while_the_run_was_away_are_kept(original, storage, tmp_path):
    """A job without a driver takes commands, also where its directory was lost and made again."""
    spec = spec_with(storage)
    with mirrored(original, spec) as store:
        first = send(original, CommandKind.SCALE, count=3)
        store()
    run, stored, checkpoints = here(tmp_path, storage)
    second = send(run, CommandKind.SCALE, count=5)
    assert catch_up(run, stored, checkpoints) == 10
    assert [command.id for command in Mailbox(run).take()] == [first, second]


def test_the_digests_of_the_inputs_come_with_the_run(original, storage, tmp_path):
    spec = spec_with(storage)
    was, now = {"rule": 1, "earshot": "1", "inputs": {}}, {"rule": 1, "earshot": "2", "inputs": {}}
    original.write_inputs(was)
    with mirrored(original, spec) as store:
        store()
    run, stored, checkpoints = here(tmp_path, storage)
    assert run.inputs() == was
    # Other inputs are accepted elsewhere, and the run continues there: a directory that is brought up to it has them.
    catch_up(run, stored, checkpoints)
    run.write_inputs(now)
    with mirrored(run, spec) as store:
        commit(run, checkpoints, 12)
        store()
    assert catch_up(original, stored_run(spec, original.path), checkpoints_of(original, spec)) == 12
    assert original.inputs() == now


def test_a_directory_that_is_ahead_stays_as_it_is(original, storage):
    spec = spec_with(storage)
    checkpoints = checkpoints_of(original, spec)
    commit(original, checkpoints, 12)
    before = contents(original.path)
    assert catch_up(original, stored_run(spec, original.path), checkpoints) is None
    assert contents(original.path) == before


def test_an_outdated_directory_takes_over_the_other_history(original, storage, tmp_path):
    """A node was lost with a checkpoint that it had not stored, and returns after the run continued elsewhere."""
    spec = spec_with(storage)
    commit(original, checkpoints_of(original, spec), 11, accuracy=0.99)
    run, stored, checkpoints = here(tmp_path, storage)
    catch_up(run, stored, checkpoints)
    roll_back_to_checkpoint(run, checkpoints, RunState())
    with mirrored(run, spec) as store:
        commit(run, checkpoints, 11, accuracy=0.3)
        commit(run, checkpoints, 12)
        store()
    old = checkpoints_of(original, spec)
    assert catch_up(original, stored_run(spec, original.path), old) == 12
    assert original.events()[-1]["removed"] == [11]
    assert old.steps() == [0, 4, 7, 10, 12]
    assert original.metrics() == run.metrics()


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints/step-10/model.safetensors"])
def test_a_damaged_file_is_named_and_the_run_stays_at_its_step(original, storage, tmp_path, spoil, name):
    run, stored, checkpoints = here(tmp_path, storage)
    spoil(f"{storage}/my-run/{name}", b'{"step": 9}\n')
    with pytest.raises(DamagedError) as caught:
        catch_up(run, stored, checkpoints)
    assert f"{storage}/my-run/{name}" in str(caught.value)
    assert 10 not in checkpoints.steps()


def test_a_lost_log_is_named(original, storage, tmp_path):
    run, stored, checkpoints = here(tmp_path, storage)
    filesystem, path = fsspec.core.url_to_fs(f"{storage}/my-run/metrics.jsonl")
    filesystem.rm(path)
    with pytest.raises(DamagedError, match=r"my-run/metrics\.jsonl is missing"):
        catch_up(run, stored, checkpoints)


def test_an_interrupted_fetch_starts_again(original, storage, tmp_path, monkeypatch):
    run, stored, checkpoints = here(tmp_path, storage)
    get, failed = Location.get, set()

    def fails_once(self, name: str, to: Path) -> None:
        if name not in failed:
            failed.add(name)
            raise StorageError(f"{name}: away")
        get(self, name, to)

    monkeypatch.setattr(Location, "get", fails_once)
    failures = 0
    while True:
        try:
            assert catch_up(run, stored, checkpoints) == 10
            break
        except StorageError:
            failures += 1
            assert 10 not in checkpoints.steps()
    assert failures >= 4
    assert run.metrics() == original.metrics()
    assert not list(run.path.glob("*.part"))


def test_another_runs_directory_is_not_taken_over(original, storage, tmp_path):
    for job in (spec_with(None), spec_with("memory://elsewhere")):
        path = tmp_path / str(job.storage).replace(":", "").replace("/", "") / "my-run"
        new_run(path, job)
        with pytest.raises(SpecError, match="move it away"):
            create_local(storage, path)
    create_local(storage, original.path)
    with pytest.raises(SpecError, match="there is no run at"):
        create_local(storage, tmp_path / "unknown")


def test_a_run_does_not_replace_another_stored_run(original, storage, tmp_path):
    run = new_run(tmp_path / "third" / "my-run", spec_with(None))
    with pytest.raises(SpecError, match="already holds a run"):
        find_stored(run, spec_with(None), spec_with(storage))
    assert find_stored(original, spec_with(storage), spec_with(storage))[1] == 10
    assert find_stored(original, spec_with(storage), spec_with(None)) == (None, None)


def test_steps_of_another_node_count_as_done(original, storage):
    spec = spec_with(storage, steps=12)
    check_resumable(original, spec_with(storage), spec_with(storage), 12)
    with pytest.raises(SpecError, match="has done its 12 steps"):
        check_resumable(original, spec.model_copy(), spec, 12)


def test_a_run_that_could_not_be_stored_at_its_end_is_stored_later(original, storage, monkeypatch):
    spec = spec_with(storage, steps=12)
    commit(original, checkpoints_of(original, spec), 12)
    original.append_event("state", state="failed")
    original.write_summary({"state": "failed"})
    monkeypatch.setattr(mirrors.Mirror, "flush", lambda _: (_ for _ in ()).throw(StorageError("still away")))
    assert is_finished_but_unstored(original, spec, 10)
    with pytest.raises(StorageError):
        store_finished(original, spec)
    monkeypatch.undo()
    assert store_finished(original, spec)["state"] == "succeeded"
    stored = stored_at(f"{storage}/my-run")
    assert newest_stored(stored) == 12
    assert json.loads(stored._location.read("summary.json"))["state"] == "succeeded"
    assert not is_finished_but_unstored(original, spec, 12)


@pytest.fixture
def service_job(storage, tiny_folder, benchmark_home, tmp_path) -> RunDirectory:
    """A job of the service that has done all of its steps, and whose directory was lost and created again."""
    model = {"path": str(tiny_folder), "max_context": 256}
    data = {"train": str(benchmark_home / "train.jsonl")}
    spec = spec_with(storage, steps=2, model=model, data=data, rollout={"max_tokens": 8})
    run = new_run(tmp_path / "runs" / "j1", spec)
    with mirrored(run, spec) as store:
        run.append_event("attempt", submission_id="j1-1", pid=1)
        commit(run, checkpoints_of(run, spec), 2)
        store()
    shutil.rmtree(run.path)
    return new_run(run.path, spec)


def test_a_driver_whose_disk_was_lost_continues_from_the_storage(service_job):
    assert driver_main.main(service_job.path, "j1-2") == exit_codes.SUCCEEDED
    assert [e["submission_id"] for e in service_job.events() if e["kind"] == "attempt"] == ["j1-1", "j1-2"]
    assert service_job.summary()["steps"] == 2
    stored = stored_at(service_job.summary()["stored_at"])
    assert json.loads(stored._location.read("summary.json")) == service_job.summary()


def test_a_driver_that_cannot_read_the_storage_does_not_start_from_scratch(service_job, monkeypatch, capsys):
    monkeypatch.setattr(driver_main, "_STORAGE_SECONDS", 0)

    def away(*_: object) -> None:
        raise StorageError("'s3://bucket' cannot be listed (ConnectionError: refused)")

    monkeypatch.setattr(Location, "names", away)
    assert driver_main.main(service_job.path, "j1-2") == exit_codes.LOST
    assert service_job.events() == []
    assert "cannot be listed" in capsys.readouterr().err


def test_a_driver_names_the_extra_of_a_storage_that_is_not_installed(tmp_path, monkeypatch, capsys):
    import sys

    monkeypatch.setitem(sys.modules, "gcsfs", None)
    run = RunDirectory.create(tmp_path / "j1", dump_spec(spec_with("gs://bucket")))
    assert driver_main.main(run.path, "j1-1") == exit_codes.BAD_INPUT
    assert "install earshot[gcs]" in capsys.readouterr().err


def test_the_service_follows_a_run_that_was_fetched(tmp_path):
    run = new_run(tmp_path / "j1", spec_with(None))
    run.append_event("attempt", submission_id="j1-1", pid=1)
    run.append_event("state", state="running")
    watch = RunWatch(run.path)
    assert watch.read().state == "running"
    (run.path / "events.jsonl").unlink()
    run.append_event("attempt", submission_id="j1-2", pid=2)
    assert watch.read().submission_id == "j1-2"
    assert watch.read().state is None
