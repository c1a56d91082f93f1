"""Files that version 0.1 wrote before its modules moved: a job file, a run directory and a database are still read."""

import asyncio
import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.display.report import render_report
from orchestrator.driver.resume import check_resumable, resume
from orchestrator.job.spec import Method
from orchestrator.job.spec_file import dump_spec, read_spec
from orchestrator.run.checkpoints import checkpoints_of
from orchestrator.run.directory import RunDirectory
from orchestrator.schemas.job_state import JobState
from orchestrator.service.store.credentials import token_hash
from orchestrator.service.store.database import sqlite_url
from orchestrator.service.store.job_rows import IdempotencyError
from orchestrator.service.store.store import Store
from orchestrator.service.supervision.run_watch import RunWatch
from orchestrator.service.telemetry.columns import Metrics

EARLIER = Path(__file__).with_name("version_0_1")


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """Return a copy of the earlier run, which tests may change."""
    shutil.copytree(EARLIER / "run", tmp_path / "run")
    return RunDirectory(tmp_path / "run")


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a job file by their place."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{place}.{key}")
    else:
        yield place, value


def test_a_job_file_is_read():
    spec = read_spec(EARLIER / "job.yaml")
    assert spec.name == "before-rooms"
    assert spec.method is Method.REINFORCE
    assert spec.reward.functions == {"accuracy": 1.0, "format": 0.5}
    assert spec.learner.optimizer.adam_beta2 == 0.99


def test_a_resolved_job_file_means_the_same_job_as_the_one_it_was_made_from(run: RunDirectory):
    resolved, written = read_spec(run.job_file), read_spec(EARLIER / "job.yaml")
    earlier = dict(leaves(yaml.safe_load(run.job_file.read_text())))
    assert resolved == written
    now = dict(leaves(yaml.safe_load(dump_spec(resolved))))
    # Later versions have further keys.
    assert {place: now.get(place) for place in earlier} == earlier


def test_a_run_directory_is_read(run: RunDirectory):
    assert [record["step"] for record in run.metrics()] == [1, 2, 3]
    assert len(list(run.samples())) == 24
    assert [step for step, _ in run.evaluations()] == [0, 1, 2, 3]
    assert run.events()[-1]["state"] == "succeeded"
    summary = run.summary()
    assert summary is not None
    assert summary["questions"]["trained"] == 6
    report = render_report(run)
    assert "before-rooms" in report
    assert "How does the melody move?" in report


def test_the_service_follows_an_earlier_run(run: RunDirectory):
    view = RunWatch(run.path).read()
    assert (view.state, view.step) == ("succeeded", 3)
    series = Metrics().of(run.path).query(None, ["reward/mean"], 100)
    assert list(series.steps) == [1, 2, 3]


def test_an_earlier_run_is_resumed(run: RunDirectory):
    old = read_spec(run.job_file)
    new = read_spec(run.job_file, {"steps": 5})
    check_resumable(run, old, new)
    checkpoints = checkpoints_of(run, new)
    assert (checkpoints.latest(), checkpoints.best()) == (3, 3)
    state = resume(run, new, dump_spec(new))
    assert (state.step, state.position, state.weight_version) == (3, 6, 5)
    assert state.ledger.counts()["trained"] == 6
    assert state.solve_rates["synthetic/train:25"].total == 4
    assert read_spec(run.job_file).steps == 5


def test_a_database_is_read(tmp_path: Path):
    connection = sqlite3.connect(tmp_path / "earshot.db")
    connection.executescript((EARLIER / "database.sql").read_text())
    connection.close()
    asyncio.run(_check_database(tmp_path))


async def _check_database(tmp_path: Path) -> None:
    async with Store(sqlite_url(tmp_path / "earshot.db"), tmp_path / "runs") as store:
        jobs = {job.name: job for job in (await store.list()).items}
        assert {name: job.state for name, job in jobs.items()} == {
            "before-rooms": JobState.SUCCEEDED,
            "waits": JobState.QUEUED,
            "failed": JobState.FAILED,
        }
        assert jobs["failed"].cause == "RuntimeError: gone"
        assert [change.to_state for change in await store.history(jobs["before-rooms"].id)] == [
            JobState.QUEUED,
            JobState.STARTING,
            JobState.RUNNING,
            JobState.PAUSED,
            JobState.RUNNING,
            JobState.SUCCEEDED,
        ]
        assert json.loads(json.dumps(jobs["waits"].spec))["name"] == "waits"
        token = await store.find_token(token_hash("earshot_secret"))
        assert token is not None
        assert token.owner == "anna"
        again, new = await store.submit(read_spec(EARLIER / "job.yaml"), owner="anna", idempotency_key="first")
        assert (again.id, new) == (jobs["before-rooms"].id, False)
        other = read_spec(EARLIER / "job.yaml", {"steps": 7})
        with pytest.raises(IdempotencyError, match="used for another job"):
            await store.submit(other, owner="anna", idempotency_key="first")
