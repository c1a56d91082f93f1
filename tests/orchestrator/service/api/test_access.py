"""Tokens, roles, the visibility of jobs, rate limits, and no secrets in responses or logs."""

import hashlib
import io
import json
import logging

import pytest
from support.models.folders import write_model
from support.service import SPEC, check_problem, service

from orchestrator.service.observability.json_log import JsonFormatter, log_context
from orchestrator.service.store.access import Role
from orchestrator.service.store.credentials import new_token, token_hash, without_secrets

pytestmark = pytest.mark.anyio


async def test_a_token_is_required_beyond_loopback(tmp_path):
    async with service(tmp_path, local=False) as made:
        client = made.client()
        for path in ("/v1/jobs", "/v1/cluster", "/metrics", "/v1/jobs/x/events"):
            refused = await client.get(path)
            check_problem(refused, 401)
            assert refused.headers["www-authenticate"] == "Bearer"
        check_problem(await client.post("/v1/jobs", json=SPEC), 401)
        assert (await client.get("/healthz")).status_code == 200
        assert (await made.client(await made.token("ada")).get("/v1/jobs")).status_code == 200


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Basic YTpi", "Bearer earshot_x", "bearer \u00e9", "Bearer a b", "Bearer " + "x" * 5000],
)
async def test_invalid_tokens_are_refused_also_on_loopback(tmp_path, header):
    async with service(tmp_path) as made:
        client = made.client()
        response = await client.get("/v1/jobs", headers=[(b"authorization", header.encode())])
        check_problem(response, 401)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:8000"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"X-Forwarded-For": "10.0.0.1"},
        {"Forwarded": "for=10.0.0.1"},
    ],
)
async def test_a_web_page_and_a_proxy_are_not_the_local_user(tmp_path, headers):
    async with service(tmp_path) as made:
        check_problem(await made.client().post("/v1/jobs", json=SPEC, headers=headers), 401)
        assert (await made.client(client=("10.0.0.9", 1)).get("/v1/jobs")).status_code == 401


async def test_revoked_and_unknown_tokens(tmp_path):
    async with service(tmp_path, local=False) as made:
        token = await made.token("ada")
        client = made.client(token)
        assert (await client.get("/v1/jobs")).status_code == 200
        record = (await made.store.list_tokens())[0]
        assert await made.store.revoke_token(record.id)
        check_problem(await client.get("/v1/jobs"), 401)


async def test_roles(tmp_path):
    async with service(tmp_path, local=False) as made:
        viewer = made.client(await made.token("ada", Role.VIEWER))
        submitter = made.client(await made.token("ada"))
        admin = made.client(await made.token("root", Role.ADMIN))
        check_problem(await viewer.post("/v1/jobs", json=SPEC), 403)
        job = (await submitter.post("/v1/jobs", json=SPEC)).json()
        assert (await viewer.get(f"/v1/jobs/{job['id']}")).status_code == 200
        for command in ("cancel", "pause", "resume", "checkpoint"):
            check_problem(await viewer.post(f"/v1/jobs/{job['id']}/{command}"), 403)
        check_problem(await viewer.patch(f"/v1/jobs/{job['id']}/rollout-workers", json={"count": 1}), 403)
        assert (await admin.post(f"/v1/jobs/{job['id']}/cancel")).json()["cause"] == "cancelled by root"
        refused = [entry for entry in await made.store.audit_log() if entry.outcome != "ok"]
        assert {entry.actor for entry in refused} == {"ada"}
        assert len(refused) == 6


async def test_a_job_of_another_user_looks_like_one_that_does_not_exist(tmp_path):
    async with service(tmp_path, local=False) as made:
        job, _ = await made.running("ada")
        bob, root = made.client(await made.token("bob")), made.client(await made.token("root", Role.ADMIN))
        url = f"/v1/jobs/{job.id}"
        missing = check_problem(await bob.get("/v1/jobs/0000000000000000"), 404)
        for path in ("", "/workers", "/metrics", "/events", "/samples", "/logs", "/checkpoints", "/samples/0/audio"):
            document = check_problem(await bob.get(url + path), 404)
            assert document["detail"].replace(job.id, "0000000000000000") == missing["detail"]
        for command in ("cancel", "pause", "resume", "checkpoint"):
            check_problem(await bob.post(f"{url}/{command}"), 404)
        check_problem(await bob.patch(f"{url}/rollout-workers", json={"count": 0}), 404)
        assert (await bob.get("/v1/jobs")).json()["items"] == []
        assert (await bob.get("/v1/jobs", params={"owner": "ada"})).json()["items"] == []
        assert job.id not in (await bob.get("/metrics")).text
        assert job.id in (await root.get("/metrics")).text
        assert (await root.get(url)).status_code == 200


async def test_too_many_requests_get_a_retry_after(tmp_path):
    async with service(tmp_path, requests_per_second=1, request_burst=3, refusals_per_second=0.5) as made:
        client = made.client()
        answers = [await client.get("/v1/jobs") for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        check_problem(answers[-1], 429)
        assert int(answers[-1].headers["retry-after"]) >= 1
        guessing = [await made.client("earshot_guess").get("/v1/jobs") for _ in range(7)]
        assert [answer.status_code for answer in guessing] == [401] * 5 + [429] * 2


def test_a_token_is_256_random_bits_and_stored_as_its_hash():
    token = new_token()
    assert len(token) >= 8 + 43
    assert token != new_token()
    assert token_hash(token) == hashlib.sha256(token.encode()).hexdigest()


def test_views_and_logs_contain_no_secrets():
    assert without_secrets({"a": [{"api_key": "x", "max_tokens": 5, "token": "y", "judge_token": None}]}) == {
        "a": [{"api_key": "…", "max_tokens": 5, "token": "…", "judge_token": None}]
    }
    stream, token = io.StringIO(), new_token()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("test.secrets")
    logger.addHandler(handler)
    with log_context(job="j1"):
        logger.warning("sent %s and Bearer abc", token, extra={"url": "postgresql://u:geheim@host/db"})
    line = json.loads(stream.getvalue())
    assert (line["job"], line["level"]) == ("j1", "warning")
    assert token not in stream.getvalue()
    assert "geheim" not in stream.getvalue()
    assert "abc" not in stream.getvalue()


async def test_jobs_cannot_use_files_of_the_service_or_runs_of_other_users(tmp_path):
    async with service(tmp_path, local=False, roots=(tmp_path,), data_dir=tmp_path) as made:
        _, run = await made.running("ada")
        folder = run.checkpoint(3)
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"")
        (folder / "config.json").write_text('{"secret": 1')
        (made.home / "model.safetensors").write_bytes(b"")
        ada, bob = made.client(await made.token("ada")), made.client(await made.token("bob"))
        body = {**SPEC, "model": {"path": str(folder)}}
        assert "not yours" in check_problem(await bob.post("/v1/jobs", json=body), 422)["detail"]
        write_model(folder)
        assert (await ada.post("/v1/jobs", json=body)).status_code == 201
        own = {**SPEC, "model": {"path": str(made.home)}}
        assert "the service's own" in check_problem(await ada.post("/v1/jobs", json=own), 422)["detail"]
