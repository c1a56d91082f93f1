"""A run is stored while its job runs: complete checkpoints despite failures, and never at the job's expense."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support.storage import commit, contents, new_run, spec_with, stored_at

from orchestrator.job.spec import JobSpec
from orchestrator.run.checkpoints import Checkpoints, checkpoints_of
from orchestrator.run.directory import RunDirectory
from orchestrator.storage.location import Location, StorageError
from orchestrator.storage.mirror import Mirror, MirrorPace, mirrored
from orchestrator.storage.stored_run import stored_run

PACE = MirrorPace(poll=0.02, files=0.02, first_back_off=0.02, longest_back_off=0.1, deadline=60, close=60)


@contextmanager
def mirroring(run: RunDirectory, spec: JobSpec, pace: MirrorPace = PACE) -> Iterator[Mirror]:
    stored = stored_run(spec, run.path)
    assert stored is not None
    mirror = Mirror(run, stored, spec, pace)
    mirror.start()
    try:
        yield mirror
    finally:
        mirror.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.02)


def kinds(run: RunDirectory, kind: str) -> list[dict]:
    return [event for event in run.events() if event["kind"] == kind]


@pytest.fixture
def job(storage: str, tmp_path: Path) -> tuple[RunDirectory, JobSpec, Checkpoints]:
    spec = spec_with(storage)
    run = new_run(tmp_path / "runs" / "my-run", spec)
    return run, spec, checkpoints_of(run, spec)


def test_all_of_a_run_is_stored(job, storage, tmp_path):
    run, spec, checkpoints = job
    (run.path / "tensorboard").mkdir()
    (run.path / "tensorboard" / "events.out").write_bytes(b"curves")
    (run.path / ".half.tmp").write_text("being written")
    with mirroring(run, spec) as mirror:
        commit(run, checkpoints, 1)
        until(lambda: [e["step"] for e in kinds(run, "stored")] == [1])
        commit(run, checkpoints, 2, accuracy=0.5)
        checkpoints.begin(3)
        mirror.flush()
        run.write_summary({"state": "succeeded"})
    stored = stored_at(f"{storage}/my-run")
    manifests = stored.manifests()
    assert {step: manifest.accuracy for step, manifest in manifests.items()} == {1: None, 2: 0.5}
    assert stored.started() == [1, 2]
    for step in (1, 2):
        stored.fetch(manifests[step], tmp_path / "fetched" / str(step))
        assert contents(tmp_path / "fetched" / str(step)) == contents(checkpoints.folder(step))
    location = stored._location
    names = ["events.jsonl", "job.yaml", "metrics.jsonl", "summary.json", "tensorboard/events.out"]
    assert [*location.names()] == ["checkpoints", *[name.partition("/")[0] for name in names]]
    for name in names:
        assert location.read(name) == (run.path / name).read_bytes()
    assert not (run.path / "checkpoints" / ".storing").exists()
    assert kinds(run, "storage_failed") == []


def test_a_checkpoint_that_is_removed_here_is_removed_there(storage, tmp_path):
    spec = spec_with(storage, checkpoint={"keep_last": 2, "keep_best": True})
    run = new_run(tmp_path / "my-run", spec)
    checkpoints = checkpoints_of(run, spec)
    with mirroring(run, spec) as mirror:
        for step, accuracy in ((0, None), (1, 0.9), (2, 0.1), (3, None), (4, 0.2)):
            commit(run, checkpoints, step, accuracy)
            mirror.flush()
            assert sorted(stored_at(f"{storage}/my-run").manifests()) == checkpoints.steps()
    assert checkpoints.steps() == stored_at(f"{storage}/my-run").started() == [0, 1, 3, 4]
    # On a machine that has only the newest one, the rule applies to all stored checkpoints.
    shutil.rmtree(checkpoints.folder(1))
    shutil.rmtree(checkpoints.folder(3))
    with mirroring(run, spec) as mirror:
        commit(run, checkpoints, 5)
        mirror.flush()
    assert stored_at(f"{storage}/my-run").started() == [0, 1, 4, 5]


def test_a_checkpoint_removed_while_it_is_being_stored_is_stored_completely(job, storage, monkeypatch, tmp_path):
    run, spec, checkpoints = job
    put, reached, proceed = Location.put, threading.Event(), threading.Event()

    def slow(self, file: Path, name: str) -> None:
        if name.endswith("step-1/model.safetensors"):
            reached.set()
            assert proceed.wait(60)
        put(self, file, name)

    monkeypatch.setattr(Location, "put", slow)
    commit(run, checkpoints, 1)
    before = contents(checkpoints.folder(1))
    with mirroring(run, spec) as mirror:
        assert reached.wait(60)
        checkpoints.remove(1)
        proceed.set()
        until(lambda: bool(kinds(run, "stored")))
        stored = stored_at(f"{storage}/my-run")
        stored.fetch(stored.manifests()[1], tmp_path / "fetched")
        assert contents(tmp_path / "fetched") == before
        mirror.flush()
    assert kinds(run, "storage_failed") == []


def test_an_incomplete_checkpoint_that_is_no_longer_kept_is_removed(job, storage, monkeypatch):
    run, spec, checkpoints = job
    put = Location.put

    def fails(self, file: Path, name: str) -> None:
        if name.endswith("step-1/training_state/job.json"):
            raise StorageError("away")
        put(self, file, name)

    monkeypatch.setattr(Location, "put", fails)
    commit(run, checkpoints, 1)
    with mirroring(run, spec) as mirror:
        until(lambda: bool(kinds(run, "storage_failed")))
        assert stored_at(f"{storage}/my-run").started() == [1]
        checkpoints.remove(1)
        mirror.flush()
        assert stored_at(f"{storage}/my-run").started() == []
        assert len(kinds(run, "storage_recovered")) == 1


def test_a_step_that_was_done_again_is_stored_again(job, storage):
    run, spec, checkpoints = job
    with mirroring(run, spec) as mirror:
        commit(run, checkpoints, 1, accuracy=0.25)
        mirror.flush()
        commit(run, checkpoints, 1, accuracy=0.5)
        mirror.flush()
    assert stored_at(f"{storage}/my-run").manifests()[1].accuracy == 0.5
    with mirroring(run, spec) as mirror:
        mirror.flush()
        assert len(kinds(run, "stored")) == 2, "a stored checkpoint is not stored again"


def test_after_an_outage_the_storage_gets_everything(s3, new_bucket, tmp_path):
    spec = spec_with(new_bucket)
    run = new_run(tmp_path / "my-run", spec)
    checkpoints = checkpoints_of(run, spec)
    with mirroring(run, spec) as mirror:
        commit(run, checkpoints, 1)
        mirror.flush()
        s3.stop()
        try:
            commit(run, checkpoints, 2)
            until(lambda: bool(kinds(run, "storage_failed")))
            # The job continues.
            commit(run, checkpoints, 3)
        finally:
            s3.start()
        mirror.flush()
        assert len(kinds(run, "storage_failed")) == 1
        assert len(kinds(run, "storage_recovered")) == 1
    assert sorted(stored_at(f"{new_bucket}/my-run").manifests()) == [1, 2, 3]
    # The checkpoint that a resumed job would need was stored first.
    assert [e["step"] for e in kinds(run, "stored")][:2] in ([1, 3], [1, 2])


def test_a_storage_that_stays_away_is_an_error_at_the_end(tmp_path):
    spec = spec_with("s3://bucket/runs")
    run = new_run(tmp_path / "my-run", spec)
    commit(run, checkpoints_of(run, spec), 1)
    stored = stored_at("memory://runs/my-run")

    def away(*_: object) -> None:
        raise StorageError("'s3://bucket/runs' cannot be listed (PermissionError: Forbidden)")

    stored._location.names = away
    mirror = Mirror(run, stored, spec, replace(PACE, deadline=1.0, close=0.2))
    mirror.start()
    try:
        with pytest.raises(StorageError, match=r"could not be stored within 1 s .*Forbidden.*--resume --run-dir"):
            mirror.flush()
    finally:
        mirror.close()
    causes = [event["cause"] for event in kinds(run, "storage_failed")]
    assert len(causes) == 2
    assert all("Forbidden" in cause for cause in causes)


def test_a_hanging_storage_delays_the_job_until_the_deadline(tmp_path, monkeypatch):
    spec = spec_with("memory://hanging")
    run = new_run(tmp_path / "my-run", spec)
    commit(run, checkpoints_of(run, spec), 1)
    proceed = threading.Event()
    monkeypatch.setattr(Location, "put", lambda *_: proceed.wait(60))
    stored = stored_run(spec, run.path)
    assert stored is not None
    mirror = Mirror(run, stored, spec, replace(PACE, deadline=0.2, close=0.2))
    mirror.start()
    try:
        with pytest.raises(StorageError, match="could not be stored"):
            mirror.flush()
        mirror.close()
    finally:
        proceed.set()
        mirror._thread.join(60)
    assert not mirror._thread.is_alive()


KILLED = """
import sys, time
from pathlib import Path
from support.storage import spec_with
from orchestrator.run.directory import RunDirectory
from orchestrator.storage.location import Location
from orchestrator.storage.mirror import Mirror
from orchestrator.storage.stored_run import stored_run

storage, path = sys.argv[1], Path(sys.argv[2])
put = Location.put

def stops(self, file, name):
    if name.endswith("step-2/training_state/job.json"):
        print("now", flush=True)
        time.sleep(600)
    put(self, file, name)

Location.put = stops
spec, run = spec_with(storage), RunDirectory(path)
Mirror(run, stored_run(spec, path), spec).start()
time.sleep(600)
"""


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_a_kill_while_storing_leaves_no_checkpoint_and_the_next_driver_repairs_it(kind, request, tmp_path):
    storage = f"file://{tmp_path}/stored" if kind == "file" else request.getfixturevalue("new_bucket")
    spec = spec_with(storage)
    run = new_run(tmp_path / "my-run", spec)
    checkpoints = checkpoints_of(run, spec)
    commit(run, checkpoints, 1)
    with mirroring(run, spec) as mirror:
        mirror.flush()
    commit(run, checkpoints, 2)
    root, tests = Path(__file__).parents[3], Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, storage, run.path],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(tests), os.environ.get("PYTHONPATH", "")])},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait(timeout=60)
    stored = stored_at(f"{storage}/my-run")
    assert list(stored.manifests()) == [1]
    assert stored.started() == [1, 2]
    assert (run.path / "checkpoints" / ".storing").exists()
    # In a directory without the checkpoint that was being stored, and where the run continues.
    lost = new_run(tmp_path / "elsewhere" / "my-run", spec)
    with mirroring(lost, spec) as mirror:
        mirror.flush()
    assert stored.started() == [1]
    with mirroring(run, spec) as mirror:
        mirror.flush()
    assert list(stored.manifests()) == [1, 2]
    assert not (run.path / "checkpoints" / ".storing").exists()


def test_a_job_without_a_storage_stores_nothing(tmp_path):
    spec = spec_with(None)
    run = new_run(tmp_path / "my-run", spec)
    with mirrored(run, spec) as store:
        commit(run, checkpoints_of(run, spec), 1)
        store()
    assert run.events() == []
