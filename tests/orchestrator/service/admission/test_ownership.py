"""Ownership is decided before a file is opened: refusals do not depend on what exists, and quote nothing of it."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from support.models.folders import write_model
from support.service import SPEC, Service, service

from audio_qa.errors import shown

SECRET = "the completion of somebody else"
ITEM = {"id": "1", "question": "?", "choices": ["a", "b"], "answer": "a"}

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def two_users(home: Path) -> AsyncIterator[tuple[Service, httpx.AsyncClient, str, str]]:
    """A service whose root has its data directory; a client of ann, a job of hers and one of bob with his files."""
    (home / "service").mkdir()
    async with service(home / "service", roots=(home,), data_dir=home / "service", local=False) as made:
        made.data = home / "user"
        made.data.mkdir()
        jobs = [await made.running(owner) for owner in ("ann", "bob")]
        for _, run in jobs:
            (run.path / "samples.jsonl").write_text(json.dumps({"completion": SECRET}) + "\n" + SECRET)
            soundfile.write(run.path / "clip.wav", np.zeros(16_000, np.float32), 16_000)
            write_model(run.path / "checkpoints" / "step-1")
            (run.path / "checkpoints" / "step-2").mkdir()
            (run.path / "checkpoints" / "step-2" / "config.json").write_text(SECRET)
        yield made, made.client(await made.token("ann")), jobs[0][0].id, jobs[1][0].id


def naming(key: str, path: str) -> dict[str, Any]:
    """A job with a path under a dotted key."""
    job = json.loads(json.dumps(SPEC))
    section = job
    *parents, last = key.split(".")
    for name in parents:
        section = section.setdefault(name, {})
    section[last] = path
    return job


async def refusal(client: httpx.AsyncClient, job: dict[str, Any]) -> str:
    answer = await client.post("/v1/jobs", json=job)
    assert answer.status_code == 422, answer.text
    assert SECRET[:12] not in answer.text
    detail: str = answer.json()["detail"]
    assert "\n" not in detail
    return detail


KEYS = ["data.train", "data.evaluation", "data.curriculum.measured", "model.path", "data.audio_root"]
KEYS += ["data.evaluation_audio_root", "learner.audio_cache.folder"]


@pytest.mark.parametrize("key", KEYS)
async def test_another_owners_run_is_refused_as_one_that_does_not_exist(tmp_path: Path, key: str) -> None:
    async with two_users(tmp_path) as (_, client, _, theirs):
        (tmp_path / "link").symlink_to(tmp_path / "service" / "runs" / theirs)
        (tmp_path / "none").symlink_to(tmp_path / "service" / "runs" / "none")
        details = set()
        for leaf in ("samples.jsonl", "checkpoints/step-2", "nothing"):
            for folder in (
                f"service/runs/{theirs}",
                "service/runs/none",
                "link",
                "none",
                f"x/../service/runs/{theirs}",
            ):
                path = f"{tmp_path}/{folder}/{leaf}"
                detail = await refusal(client, naming(key, path))
                details.add(detail.replace(shown(path), "''"))
        texts = details
        if key == "learner.audio_cache.folder":
            assert all(text.startswith(f"{key}: ") for text in texts)
        else:
            assert texts == {f"{key}: '' is the service's own, or another owner's and not yours"}


@pytest.mark.parametrize("own", [False, True])
async def test_a_clip_in_the_services_data_is_refused_before_it_is_opened(tmp_path: Path, own: bool) -> None:
    async with two_users(tmp_path) as (made, client, ours, theirs):
        clip = tmp_path / "service" / "runs" / (ours if own else theirs) / "clip.wav"
        (made.data / "link.wav").symlink_to(clip)
        os.link(tmp_path / "service" / "earshot.db", made.data / "hard.wav")
        clips = [
            str(clip),
            "link.wav",
            f"/proc/self/root{clip}",
            f"../service/runs/{ours}/../{clip.parent.name}/clip.wav",
        ]
        for audio in clips:
            (made.data / "train.jsonl").write_text(json.dumps(ITEM | {"audio": audio}))
            job = naming("data.train", str(made.data / "train.jsonl"))
            if own:
                answer = await client.post("/v1/jobs", json=job)
                assert answer.status_code == 201, answer.text
                assert (await made.store.get(answer.json()["id"])).uses == (ours,)
            else:
                assert "another owner's and not yours" in await refusal(client, job)
        for audio in ("../service/earshot.db", "hard.wav", "../service/earshot.db-wal", "../service/nothing.db"):
            (made.data / "train.jsonl").write_text(json.dumps(ITEM | {"audio": audio}))
            assert "is the service's own" in await refusal(client, naming("data.train", str(made.data / "train.jsonl")))


async def test_files_of_own_runs_are_admitted_and_noted(tmp_path: Path) -> None:
    async with two_users(tmp_path) as (made, client, ours, _):
        run = tmp_path / "service" / "runs" / ours
        job = naming("model.path", str(run / "checkpoints" / "step-1"))
        answer = await client.post("/v1/jobs", json=job)
        assert answer.status_code == 201, answer.text
        assert (await made.store.get(answer.json()["id"])).uses == (ours,)
        for name in ("job.yaml", "allowed.json", "driver.log", "commands.jsonl"):
            (run / name).write_text(SECRET)
            assert "is the service's own" in await refusal(client, naming("data.train", str(run / name)))


async def test_a_link_in_a_models_folder_tells_nothing_about_where_it_leads(tmp_path: Path) -> None:
    async with two_users(tmp_path) as (made, client, _, theirs):
        folder = write_model(made.data / "model")
        details = []
        for number, target in enumerate(("THEIRS/samples.jsonl", "THEIRS/none", "none/none")):
            (folder / "special_tokens_map.json").unlink(missing_ok=True)
            (folder / "special_tokens_map.json").symlink_to(
                tmp_path / "service" / "runs" / target.replace("THEIRS", theirs)
            )
            details.append(await refusal(client, naming("model.path", str(folder))))
            assert "special_tokens_map.json' is the service's own" in details[number]
        assert len(set(details)) == 1
        outer = made.data / "outer"
        outer.mkdir()
        (outer / "inner").symlink_to(tmp_path / "service" / "runs" / theirs / "checkpoints" / "step-1")
        assert "step-1" not in await refusal(client, naming("model.path", str(outer)))


async def test_pipes_devices_and_files_of_the_kernel_do_not_hold_the_service(tmp_path: Path) -> None:
    async with two_users(tmp_path) as (made, client, _, _):
        pipe = made.data / "pipe"
        os.mkfifo(pipe)
        folder = write_model(made.data / "model")
        (folder / "model.safetensors").unlink()
        os.mkfifo(folder / "model.safetensors")
        assert "neither a file nor a folder" in await refusal(client, naming("model.path", str(folder)))
        for path in (str(pipe), "/dev/zero", "/dev/stdin", "/proc/self/environ", "/proc/self/fd/0"):
            assert "is not" in await refusal(client, naming("data.train", path))
            (made.data / "train.jsonl").write_text(json.dumps(ITEM | {"audio": path}))
            assert "is not" in await refusal(client, naming("data.train", str(made.data / "train.jsonl")))


async def test_a_cache_is_written_only_where_the_service_allows_it(tmp_path: Path) -> None:
    (tmp_path / "caches").mkdir()
    job = naming("learner.audio_cache.folder", f"{tmp_path}/caches/mine")
    async with two_users(tmp_path) as (_, client, _, _):
        assert "not under the folders jobs may keep caches in (there are none)" in await refusal(client, job)
    async with service(tmp_path, cache_roots=(tmp_path / "caches",)) as made:
        client = made.client()
        answer = await client.post("/v1/jobs", json=job)
        assert answer.status_code == 201, answer.text
        for path in (f"{tmp_path}/caches/../data", "cache", "s3://bucket/cache"):
            assert "learner.audio_cache.folder: " in await refusal(client, naming("learner.audio_cache.folder", path))
