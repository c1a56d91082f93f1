"""The service says in each run directory what the job may read, before every driver."""

from dataclasses import replace
from pathlib import Path

import pytest
from support.service import service

from orchestrator.job.allowed import Allowed, load
from orchestrator.job.spec import JobSpec
from orchestrator.run.files import ALLOWED, JOB
from orchestrator.service.admission.private import private_files
from orchestrator.service.api.settings import ApiSettings
from orchestrator.service.supervision.supervisor import _make_run_directory

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_it_has_the_roots_and_the_runs_that_the_job_uses(tmp_path: Path) -> None:
    settings = ApiSettings(roots=(tmp_path,), data_dir=tmp_path, reward_modules=("rewards",), judge_hosts=("judge",))
    async with service(tmp_path) as made:
        named = {"train": f"{tmp_path}/runs/named/samples.jsonl"}  # by a job that an earlier version admitted
        spec = JobSpec.model_validate({"model": {"path": "builtin:tiny-qwen2-audio"}, "data": named})
        job, _ = await made.store.submit(spec, owner="ann")
        job = replace(job, uses=("used",))
        _make_run_directory(job, None, settings.allowed)
        file = Path(job.run_dir) / ALLOWED
        found = load(file.read_text(), "allowed")
        assert (found.roots, found.reward_modules, found.judge_hosts) == ((str(tmp_path),), ("rewards",), ("judge",))
        assert found.runs == ("named", "used")
        before = (Path(job.run_dir) / JOB).read_text()
        _make_run_directory(job, None, replace(settings.allowed, roots=()))
        assert load(file.read_text(), "allowed").roots == ()
        assert (Path(job.run_dir) / JOB).read_text() == before


def test_the_services_own_files_are_private(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "disk" / "runs").mkdir(parents=True)
    (tmp_path / "data" / "runs").symlink_to(tmp_path / "disk" / "runs")
    (tmp_path / "data" / "ray").symlink_to(tmp_path / "disk")
    allowed = Allowed((str(tmp_path),), private=private_files(tmp_path / "data", tmp_path / "jobs.db"))
    for path in ("data/earshot.db", "jobs.db", "jobs.db-wal", "disk/other", "disk/runs/1/samples.jsonl", "data/runs"):
        with pytest.raises(ValueError, match="is the service's own"):
            allowed.readable().place(f"{tmp_path}/{path}")
    assert replace(allowed, runs=("1",)).readable().place(f"{tmp_path}/disk/runs/1/samples.jsonl")
    assert load(allowed.dump(), "allowed") == allowed
