"""The routes: their responses, and the requests that they refuse."""

import json
from contextlib import asynccontextmanager

import pytest
import yaml
from support.models.folders import write_model
from support.service import SPEC, check_problem, sample, service

from orchestrator.cluster.inventory import Usage
from orchestrator.run.mailbox import Mailbox
from orchestrator.schemas.job_state import JobState

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def local(tmp_path, **settings):
    async with service(tmp_path, **settings) as made:
        yield made, made.client()


async def test_a_job_is_submitted_listed_shown_and_cancelled(tmp_path):
    async with local(tmp_path) as (_, client):
        made = await client.post("/v1/jobs", json=SPEC, params={"priority": 5, "max_restarts": 1})
        assert made.status_code == 201, made.text
        job = made.json()
        assert (job["state"], job["name"], job["owner"], job["priority"]) == ("queued", "small", "local", 5)
        assert made.headers["location"] == f"/v1/jobs/{job['id']}"
        assert job["spec"]["rollout"]["group_size"] == 8
        assert job["progress"] == {
            "step": 0,
            "steps": 20,
            "fraction": 0.0,
            "metrics": {},
            "evaluation": None,
            "current": True,
        }
        assert job["workers"] == {"target": 1, "alive": 0}
        listed = (await client.get("/v1/jobs")).json()
        assert [item["id"] for item in listed["items"]] == [job["id"]]
        assert listed["next_cursor"] is None
        shown = (await client.get(f"/v1/jobs/{job['id']}")).json()
        assert [(h["from_state"], h["to_state"]) for h in shown["history"]] == [(None, "queued")]
        cancelled = await client.post(f"/v1/jobs/{job['id']}/cancel")
        assert cancelled.status_code == 200
        assert cancelled.json()["state"] == "cancelled"
        assert cancelled.json()["cause"] == "cancelled by local"
        assert (await client.post(f"/v1/jobs/{job['id']}/cancel")).status_code == 200


async def test_yaml_is_accepted_like_json(tmp_path):
    async with local(tmp_path) as (_, client):
        made = await client.post("/v1/jobs", content=yaml.safe_dump(SPEC), headers={"content-type": "application/yaml"})
        assert made.status_code == 201, made.text
        bad = await client.post("/v1/jobs", content="name: [", headers={"content-type": "application/yaml"})
        check_problem(bad, 400)


async def test_an_idempotency_key_creates_one_job(tmp_path):
    async with local(tmp_path) as (_, client):
        first = await client.post("/v1/jobs", json=SPEC, headers={"Idempotency-Key": "k1"})
        again = await client.post("/v1/jobs", json=SPEC, headers={"Idempotency-Key": "k1"})
        assert (first.status_code, again.status_code) == (201, 200)
        assert first.json()["id"] == again.json()["id"]
        other = await client.post("/v1/jobs", json={**SPEC, "steps": 3}, headers={"Idempotency-Key": "k1"})
        check_problem(other, 409)
        assert len((await client.get("/v1/jobs")).json()["items"]) == 1


def judged(url, **judge):
    return {"reward": {"functions": {"judge": 1.0}, "judge": {"url": url, "model": "m", **judge}}}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"stepz": 3}, "did you mean 'steps'"),
        ({"steps": -1}, "'steps'"),
        ({"model": {"path": "/etc"}}, "not under the folders"),
        ({"model": {"path": "{home}/data/../runs"}}, "model.path"),
        ({"data": {"train": "/etc/passwd"}}, "data.train"),
        ({"data": {"train": "builtin:other"}}, "not built in"),
        ({"data": {"train": "questions.jsonl"}}, "data.train"),
        ({"data": {"train": "{home}/data/escape.jsonl"}}, "not under the folders"),
        ({"data": {"train": "{home}/data/remote.jsonl"}}, "URLs are not read here"),
        ({"data": {"train": "{home}/data/lost.jsonl"}}, "not under the folders"),
        ({"data": {"train": "https://elsewhere/questions.jsonl"}}, "not under the folders"),
        ({"data": {"train": "hf:owner/name#train"}}, "not under the folders"),
        ({"data": {"train": "builtin:synthetic", "audio_root": "/etc"}}, "data.audio_root"),
        ({"data": {"train": "builtin:synthetic", "evaluation_audio_root": "s3://b"}}, "data.evaluation_audio_root"),
        ({"reward": {"functions": {"os:system": 1.0}, "allowed_modules": ["os"]}}, "does not allow 'os'"),
        (judged("http://elsewhere:8000/v1"), "does not allow 'elsewhere:8000' (allowed: none)"),
        (
            {"data": {"train": "builtin:synthetic", "curriculum": {"measured": "/etc/passwd"}}},
            "data.curriculum.measured",
        ),
        ({"cluster": {"address": "ray://elsewhere"}}, "the service chooses the cluster"),
        ({"storage": "s3://elsewhere/runs"}, "storage: the service chooses it"),
        ({"storage": "s3://ada:secret@elsewhere"}, "name and password: leave them out"),
    ],
)
async def test_jobs_that_the_service_does_not_allow_are_refused_with_the_reason(tmp_path, change, says):
    async with local(tmp_path) as (made, client):
        question = {"id": "1", "audio": "/etc/hostname", "question": "?", "choices": ["a", "b"], "answer": "a"}
        (made.data / "escape.jsonl").write_text(json.dumps(question) + "\n")
        (made.data / "remote.jsonl").write_text(json.dumps(question | {"audio": "https://elsewhere/1.wav"}) + "\n")
        # Of this format clips may be missing; where they would be still counts.
        avqa = {"id": 1, "audio_path": "../../x.wav", "question_text": "?", "multi_choice": ["a", "b"], "answer": 0}
        (made.data / "lost.jsonl").write_text(json.dumps(avqa) + "\n")
        body = json.loads(json.dumps({**SPEC, **change}).replace("{home}", str(tmp_path)))
        assert says in check_problem(await client.post("/v1/jobs", json=body), 422)["detail"]
        assert (await client.get("/v1/jobs")).json()["items"] == []


@pytest.mark.parametrize(
    ("url", "key", "says"),
    [
        ("http://judge:8000/v1", None, None),
        ("https://Judges.example/v1", "JUDGE_API_KEY", None),
        ("http://judges.example:9/v1", None, None),
        ("http://judge:8001/v1", None, "does not allow 'judge:8001' (allowed: judge:8000, judges.example)"),
        ("http://judges.example.org/v1", None, "reward.judge.url"),
        ("http://judge:8000/v1", "AWS_SECRET_ACCESS_KEY", "reward.judge.api_key_env: this service does not allow"),
    ],
)
async def test_judges_and_their_keys_are_on_allow_lists(tmp_path, url, key, says):
    lists = {"judge_hosts": ("judge:8000", "judges.example"), "judge_keys": ("JUDGE_API_KEY",)}
    async with local(tmp_path, **lists) as (_, client):
        answer = await client.post("/v1/jobs", json={**SPEC, **judged(url, api_key_env=key)})
        if says is None:
            assert answer.status_code == 201
        else:
            assert says in check_problem(answer, 422)["detail"]


async def test_files_under_the_roots_are_accepted(tmp_path):
    async with local(tmp_path) as (made, client):
        made.clip()
        question = {"id": "1", "audio": "clip.wav", "question": "?", "choices": ["a", "b"], "answer": "a"}
        (made.data / "train.jsonl").write_text(json.dumps(question) + "\n")
        model = made.data / "model"
        model.mkdir()
        (model / "pytorch_model.bin").write_bytes(b"")
        body = {**SPEC, "model": {"path": str(model)}, "data": {"train": str(made.data / "train.jsonl")}}
        assert "safetensors" in check_problem(await client.post("/v1/jobs", json=body), 422)["detail"]
        (model / "model.safetensors").write_bytes(b"")
        assert "lacks config.json" in check_problem(await client.post("/v1/jobs", json=body), 422)["detail"]
        write_model(model)
        assert (await client.post("/v1/jobs", json=body)).status_code == 201
        (model / "model.safetensors").write_bytes(b"")
        assert "model.safetensors is empty" in check_problem(await client.post("/v1/jobs", json=body), 422)["detail"]


async def test_a_running_job_takes_commands_and_a_queued_one_does_not(tmp_path):
    async with local(tmp_path) as (made, client):
        job, run = await made.running()
        mailbox = Mailbox(run)
        response = await client.patch(f"/v1/jobs/{job.id}/rollout-workers", json={"count": 3})
        assert response.status_code == 202, response.text
        assert (response.json()["command"], response.json()["count"]) == ("scale", 3)
        for what in ("pause", "resume", "checkpoint"):
            assert (await client.post(f"/v1/jobs/{job.id}/{what}")).status_code == 202
        taken = mailbox.take()
        assert [(c.kind, c.count, c.by) for c in taken] == [
            ("scale", 3, "local"), ("pause", None, "local"), ("resume", None, "local"), ("checkpoint", None, "local"),
        ]  # fmt: skip
        assert taken[0].id == response.json()["id"]
        waiting = await made.job()
        for what in ("pause", "resume", "checkpoint"):
            check_problem(await client.post(f"/v1/jobs/{waiting.id}/{what}"), 409)
        check_problem(await client.patch(f"/v1/jobs/{waiting.id}/rollout-workers", json={"count": 3}), 409)
        await made.store.transition(job.id, JobState.RUNNING, JobState.PAUSED)
        check_problem(await client.post(f"/v1/jobs/{job.id}/pause"), 409)
        cancelled = await client.post(f"/v1/jobs/{job.id}/cancel")
        assert cancelled.json()["cancelling"]
        await made.store.transition(job.id, JobState.PAUSED, JobState.SUCCEEDED)
        check_problem(await client.post(f"/v1/jobs/{job.id}/cancel"), 409)
        check_problem(await client.post(f"/v1/jobs/{job.id}/resume"), 409)
        log = await made.store.audit_log()
        assert {entry.action for entry in log} == {
            "job.scale", "job.pause", "job.resume", "job.checkpoint", "job.cancel",
        }  # fmt: skip


@pytest.mark.parametrize(
    "body", [{}, {"count": -1}, {"count": "3"}, {"count": 1.5}, {"count": 1, "x": 2}, {"count": 1e9}]
)
async def test_invalid_numbers_of_workers_are_refused(tmp_path, body):
    async with local(tmp_path) as (made, client):
        job, _ = await made.running()
        check_problem(await client.patch(f"/v1/jobs/{job.id}/rollout-workers", json=body), 422)


async def test_pages_contain_every_job_once(tmp_path):
    async with local(tmp_path) as (made, client):
        ids = [(await made.job(name=f"job-{i % 2}")).id for i in range(7)]
        found, cursor = [], None
        while True:
            page = (await client.get("/v1/jobs", params={"limit": 3} | ({"cursor": cursor} if cursor else {}))).json()
            found += [item["id"] for item in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert found == ids[::-1]
        named = (await client.get("/v1/jobs", params={"name": "job-1"})).json()["items"]
        assert [item["id"] for item in named] == ids[1::2][::-1]
        states = {"state": ["running", "paused"]}
        assert (await client.get("/v1/jobs", params=states)).json()["items"] == []
        check_problem(await client.get("/v1/jobs", params={"cursor": "nonsense"}), 400)
        check_problem(await client.get("/v1/jobs", params={"state": "asleep"}), 422)
        check_problem(await client.get("/v1/jobs", params={"limit": 0}), 422)


async def test_metrics_workers_checkpoints_and_progress(tmp_path):
    async with local(tmp_path) as (made, client):
        job, run = await made.running()
        for step in range(1, 11):
            run.append_metrics({"step": step, "reward/mean": step / 10, "kl/ref": None})
        run.append_event("evaluation", step=10, result={"accuracy": 0.5, "silence_accuracy": 0.2})
        folder = run.checkpoint(10) / "training_state"
        folder.mkdir(parents=True)
        (folder / "job.json").write_text('{"accuracy": 0.5}')
        url = f"/v1/jobs/{job.id}"
        found = (await client.get(f"{url}/metrics", params={"since_step": 8})).json()
        assert found["items"] == [
            {"step": 9, "reward/mean": 0.9, "kl/ref": None}, {"step": 10, "reward/mean": 1.0, "kl/ref": None},
        ]  # fmt: skip
        assert (found["last_step"], found["names"], found["minima"]) == (10, ["reward/mean", "kl/ref"], None)
        bucketed = (await client.get(f"{url}/metrics", params={"names": "reward/mean,none", "points": 2})).json()
        assert bucketed["items"] == [{"step": 5, "reward/mean": pytest.approx(0.3)}, {"step": 10, "reward/mean": 0.8}]
        assert [row["reward/mean"] for row in bucketed["maxima"]] == [0.5, 1.0]
        assert (await client.get(f"{url}/metrics", params={"names": "none"})).json()["items"][0] == {"step": 1}
        workers = (await client.get(f"{url}/workers")).json()
        assert (workers["target"], [w["state"] for w in workers["items"]]) == (2, ["serving", "serving"])
        shown = (await client.get(url)).json()
        assert (shown["progress"]["step"], shown["progress"]["fraction"]) == (10, 0.5)
        assert shown["progress"]["evaluation"]["accuracy"] == 0.5
        assert shown["workers"] == {"target": 2, "alive": 2}
        checkpoints = (await client.get(f"{url}/checkpoints")).json()["items"]
        assert [(c["step"], c["accuracy"], c["bytes"]) for c in checkpoints] == [(10, 0.5, 17)]
        waiting = await made.job()
        for what in ("metrics", "workers", "samples", "checkpoints"):
            assert (await client.get(f"/v1/jobs/{waiting.id}/{what}")).json()["items"] == []


async def test_samples_with_their_clips_in_ranges(tmp_path):
    async with local(tmp_path) as (made, client):
        job, run = await made.running()
        clip, outside = made.clip(), tmp_path / "outside.wav"
        outside.write_bytes(clip.read_bytes())
        (made.data / "link.wav").symlink_to(outside)
        (made.data / "text.wav").write_text("no sound")
        for i, path in enumerate([clip, outside, made.data / "link.wav", made.data / "text.wav", made.data / "none"]):
            run.append_samples([sample(str(path), step=i, i=i)])
        page = (await client.get(f"/v1/jobs/{job.id}/samples", params={"order": "oldest", "limit": 3})).json()
        rest = (
            await client.get(f"/v1/jobs/{job.id}/samples", params={"order": "oldest", "cursor": page["next_cursor"]})
        ).json()
        items = page["items"] + rest["items"]
        assert [item["draw"] for item in items] == [0, 1, 2, 3, 4]
        assert rest["next_cursor"] is None
        whole = await client.get(items[0]["audio_url"])
        assert (whole.status_code, whole.headers["content-type"]) == (200, "audio/wav")
        assert whole.content == clip.read_bytes()
        part = await client.get(items[0]["audio_url"], headers={"Range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, clip.read_bytes()[10:20])
        assert part.headers["content-range"] == f"bytes 10-19/{len(whole.content)}"
        check_problem(await client.get(items[0]["audio_url"], headers={"Range": "bytes=99999999-"}), 416)
        for item in items[1:]:
            check_problem(await client.get(item["audio_url"]), 404)
        check_problem(await client.get(f"/v1/jobs/{job.id}/samples/3/audio"), 404)
        one = (await client.get(f"/v1/jobs/{job.id}/samples", params={"step": 2})).json()["items"]
        assert [item["step"] for item in one] == [2]


async def test_health_metrics_and_cluster(tmp_path):
    async with local(tmp_path) as (made, client):
        job, _ = await made.running()
        await made.job()
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        assert (await client.get("/readyz")).json() == {"status": "ok"}
        text = (await client.get("/metrics")).text
        for line in ('earshot_jobs{state="queued"} 1.0', "earshot_queue_jobs 1.0", 'state="serving"} 2.0',
                     'earshot_http_requests_total{method="GET",route="/healthz",status="200"} 1.0'):  # fmt: skip
            assert line in text
        made.cluster.uses = [Usage(job.id, 4, 1), Usage("0000", 1, 0)]
        cluster = (await client.get("/v1/cluster")).json()
        assert (cluster["gpus"], cluster["gpus_used"], cluster["jobs"]["running"]) == (2, 1, 1)
        assert [use["job"] for use in cluster["nodes"][0]["uses"]] == [job.id, "0000"]
        stranger = made.client(await made.token("eve"))
        assert [u["job"] for u in (await stranger.get("/v1/cluster")).json()["nodes"][0]["uses"]] == ["other"] * 2
        check_problem(await client.get("/v1/nothing"), 404)
        check_problem(await client.delete("/v1/jobs"), 405)
