"""A job whose machine is lost resumes elsewhere from an S3 server, with identical results."""

import json
import shutil
from pathlib import Path

import pytest
from integration.conftest import EARSHOT, WARM, earshot, end, lines, start_earshot, timeless, wait_for
from support.storage import bucket, s3_server, stored_at

from orchestrator.run.directory import RunDirectory

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2000)]

STEPS = 10


def test_a_job_that_lost_its_disk_ends_as_one_that_did_not(job_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with s3_server():
        storage = f"{bucket('earshot-runs')}/deep"
        job = job_file(
            tmp_path / "job",
            # Some are left when the first is stored, however fast they are.
            steps=STEPS,
            deterministic=True,
            warm_start=WARM,
            evaluation={"every": 2},
            checkpoint={"every": 1, "keep_last": 2},
            learner={"optimizer": {"learning_rate": 1.0e-3, "schedule": "constant"}},
        )
        alone = earshot("run", job, "--json", "--run-dir", tmp_path / "alone", timeout=900)
        assert alone.returncode == 0, alone.stderr[-3000:]
        first = start_earshot(
            *("run", job, "--json", "--run-dir", f"{storage}/lost"), stderr=tmp_path / "first.txt", command=(EARSHOT,)
        )
        home = tmp_path / "runs" / "lost"
        try:
            wait_for((home / "events.jsonl").exists, first, 120)
            wait_for(lambda: bool(stored_steps(home) - {0}), first, 900)
        finally:
            end(first)
        shutil.rmtree(home)
        taken = earshot("run", job, "--run-dir", f"{storage}/lost", timeout=120)
        assert taken.returncode == 2
        assert "already holds a run" in taken.stderr
        resumed = earshot("run", "--resume", "--run-dir", f"{storage}/lost", "--json", timeout=900)
        assert resumed.returncode == 0, resumed.stderr[-3000:]

        one, other = json.loads(alone.stdout), json.loads(resumed.stdout)
        assert other["stored_at"] == f"{storage}/lost"
        for name in ("metrics.jsonl", "samples.jsonl"):
            assert [timeless(m) for m in lines(Path(one["run_dir"]) / name)] == [
                timeless(m) for m in lines(home / name)
            ]
        assert one["questions"] == other["questions"]
        model = f"checkpoints/step-{STEPS}/model.safetensors"
        assert (home / model).read_bytes() == (Path(one["run_dir"]) / model).read_bytes()
        kinds = [event["kind"] for event in RunDirectory(home).events()]
        assert "fetched" in kinds
        assert "storage_failed" not in kinds
        stored = stored_at(f"{storage}/lost")
        assert stored.started() == sorted(stored.manifests())
        assert STEPS in stored.manifests()
        assert stored._location.read("metrics.jsonl") == (home / "metrics.jsonl").read_bytes()
        done = earshot("run", "--resume", "--run-dir", f"{storage}/lost", timeout=120)
        assert done.returncode == 2
        assert f"has done its {STEPS} steps" in done.stderr


def stored_steps(home: Path) -> set[int]:
    return {event["step"] for event in RunDirectory(home).events() if event["kind"] == "stored"}
