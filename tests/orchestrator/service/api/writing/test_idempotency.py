"""Requests with an Idempotency-Key, on both databases: one that is repeated has no second effect."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
import yaml
from support.service import SPEC, Service, check_problem

from orchestrator.job.spec import JobSpec
from orchestrator.run.mailbox import Mailbox
from orchestrator.schemas.job_state import JobState
from orchestrator.service.api.routes import idempotency
from orchestrator.service.store import request_store
from orchestrator.service.store.access import Role
from orchestrator.service.store.request_store import DoneRequest, RequestKey
from orchestrator.service.store.store import Store, StoreUnavailableError

pytestmark = pytest.mark.anyio

REPLAYED = "idempotent-replayed"


@asynccontextmanager
async def on(database_url, tmp_path):
    async with Store(database_url, tmp_path / "runs") as store:
        made = Service(tmp_path, store)
        yield made, made.client()
        for client in made.clients:
            await client.aclose()
        await made.app.state.context.tails.stop()


def key(name):
    return {"Idempotency-Key": name}


def with_questions(made):
    """Return a job file that names a question file of the user, and the file."""
    made.clip()
    file = made.data / "train.jsonl"
    question = {"id": "1", "audio": "clip.wav", "question": "?", "choices": ["a", "b"], "answer": "a"}
    file.write_text(json.dumps(question) + "\n")
    return {**SPEC, "data": {"train": str(file)}}, file


async def test_a_repeated_submission_is_answered_although_its_files_are_gone(database_url, tmp_path):
    async with on(database_url, tmp_path) as (made, client):
        spec, file = with_questions(made)
        first = await client.post("/v1/jobs?priority=5", json=spec, headers=key("k"))
        assert (first.status_code, first.headers.get(REPLAYED)) == (201, None)
        file.unlink()
        again = await client.post("/v1/jobs?priority=5", json=spec, headers=key("k"))
        assert (again.status_code, again.headers.get(REPLAYED)) == (200, "true")
        assert (again.json(), again.headers["location"]) == (first.json(), first.headers["location"])
        text = yaml.safe_dump(spec, sort_keys=True)
        in_yaml = await client.post(
            "/v1/jobs?priority=5", content=text, headers=key("k") | {"content-type": "application/yaml"}
        )
        assert in_yaml.json()["id"] == first.json()["id"]
        for url, body in (("/v1/jobs", spec), ("/v1/jobs?priority=5", {**spec, "steps": 3})):
            other = await client.post(url, json=body, headers=key("k"))
            assert check_problem(other, 409)["code"] == "idempotency_conflict"
        check_problem(await client.post(f"/v1/jobs/{first.json()['id']}/cancel", headers=key("k")), 409)
        assert len((await client.get("/v1/jobs")).json()["items"]) == 1
        assert [entry.action for entry in await made.store.audit_log()] == ["job.submit"]


async def test_the_key_of_another_user_is_another_key(database_url, tmp_path):
    async with on(database_url, tmp_path) as (made, client):
        ann, eve = made.client(await made.token("ann")), made.client(await made.token("eve"))
        answers = [await one.post("/v1/jobs", json=SPEC, headers=key("k")) for one in (client, ann, eve)]
        assert [answer.status_code for answer in answers] == [201, 201, 201]
        assert len({answer.json()["id"] for answer in answers}) == 3
        # Another token of the same owner that may not see the job learns nothing about it.
        admin = made.client(await made.token("eve", Role.ADMIN))
        target = answers[1].json()["id"]
        assert (await admin.post(f"/v1/jobs/{target}/cancel", headers=key("c"))).status_code == 200
        check_problem(await eve.post(f"/v1/jobs/{target}/cancel", headers=key("c")), 404)


async def test_of_concurrent_requests_with_one_key_one_is_carried_out(database_url, tmp_path):
    async with on(database_url, tmp_path) as (made, client):
        job, run = await made.running()
        mailbox = Mailbox(run)

        async def send(method, url, name, body=None):
            while True:  # on a busy machine the service says to send it again
                answer = await client.request(method, url, json=body, headers=key(name))
                if answer.status_code != 503:
                    return answer

        submissions = [send("POST", "/v1/jobs", "s", SPEC) for _ in range(8)]
        pauses = [send("POST", f"/v1/jobs/{job.id}/pause", "p") for _ in range(8)]
        scales = [send("PATCH", f"/v1/jobs/{job.id}/rollout-workers", "w", {"count": 3}) for _ in range(4)]
        failed, _ = await made.running()
        await made.store.transition(failed.id, JobState.RUNNING, JobState.FAILED)
        retries = [send("POST", f"/v1/jobs/{failed.id}/retry", "r") for _ in range(4)]
        answers = await asyncio.gather(*submissions, *pauses, *scales, *retries)
        assert sorted(answer.status_code for answer in answers[:8]) == [200] * 7 + [201]
        assert len({answer.json()["id"] for answer in answers[:8]}) == 1
        assert [answer.status_code for answer in answers[8:]] == [202] * 12 + [200] * 4
        sent = mailbox.take()
        assert sorted(command.kind for command in sent) == ["pause", "scale"]
        assert {command.id for command in sent} == {answer.json()["id"] for answer in answers[8:20]}
        assert answers[19].json()["count"] == 3
        done = sorted(entry.action for entry in await made.store.audit_log())
        assert done == ["job.pause", "job.retry", "job.scale", "job.submit"]


async def test_a_request_that_takes_long_is_not_waited_for_without_end(database_url, tmp_path, monkeypatch):
    async with on(database_url, tmp_path) as (made, client):
        monkeypatch.setattr(idempotency, "_WAIT_SECONDS", 0.05)
        begun, go_on = asyncio.Event(), asyncio.Event()
        submit = made.store.submit

        async def slow(*arguments, **named):
            begun.set()
            await go_on.wait()
            return await submit(*arguments, **named)

        monkeypatch.setattr(made.store, "submit", slow)
        first = asyncio.create_task(client.post("/v1/jobs", json=SPEC, headers=key("k")))
        await begun.wait()
        second = await asyncio.wait_for(client.post("/v1/jobs", json=SPEC, headers=key("k")), 10)
        assert check_problem(second, 503)["code"] == "request_in_progress"
        assert second.headers["retry-after"] == "1"
        go_on.set()
        assert (await first).status_code == 201
        assert (await client.post("/v1/jobs", json=SPEC, headers=key("k"))).status_code == 200


async def test_old_keys_and_those_beyond_the_bound_are_forgotten(database_url, tmp_path, monkeypatch):
    async with on(database_url, tmp_path) as (made, client):
        monkeypatch.setattr(request_store, "MOST_KEYS", 3)
        monkeypatch.setattr(request_store, "_PURGE_SECONDS", 0.0)
        job, _ = await made.running()
        submitted = await client.post("/v1/jobs", json=SPEC, headers=key("s"))

        async def set_priority(name, priority):
            url = f"/v1/jobs/{job.id}"
            return await client.patch(url, json={"priority": priority}, headers=key(name))

        for number in range(3):
            await set_priority(f"k{number}", number)
        assert REPLAYED not in (await set_priority("k3", 3)).headers
        check_problem(await set_priority("k3", 4), 409)
        assert (await set_priority("k0", 5)).json()["priority"] == 5
        # That of a submission is one of the forgotten ones; its job has the key itself.
        again = await client.post("/v1/jobs", json=SPEC, headers=key("s"))
        assert (again.status_code, again.json()["id"]) == (200, submitted.json()["id"])
        monkeypatch.setattr(request_store, "KEY_DAYS", -1)
        await made.store.remember_request(RequestKey("local", "other", ""), DoneRequest(200, job.id))
        assert (await set_priority("k3", 6)).json()["priority"] == 6
        assert (await client.post("/v1/jobs", json=SPEC, headers=key("s"))).headers[REPLAYED] == "true"


async def test_a_request_that_failed_may_be_corrected_and_sent_again(database_url, tmp_path):
    async with on(database_url, tmp_path) as (made, client):
        check_problem(await client.post("/v1/jobs", json={**SPEC, "steps": -1}, headers=key("k")), 422)
        assert (await client.post("/v1/jobs", json=SPEC, headers=key("k"))).status_code == 201
        job = await made.job()
        pause = f"/v1/jobs/{job.id}/pause"
        check_problem(await client.post(pause, headers=key("p")), 409)
        await made.store.transition(job.id, JobState.QUEUED, JobState.STARTING, attempt=1)
        check_problem(await client.post(pause, headers=key("p")), 409)
        check_problem(await client.post("/v1/jobs", json=SPEC, headers=key("\x7f")), 422)


async def test_a_service_that_dies_before_it_recorded_a_request_does_nothing_twice(database_url, tmp_path, monkeypatch):
    """Whatever is after the effect of a request is missing, as after `kill -9`; the next service is asked again."""

    async def dies(*_):
        raise StoreUnavailableError("killed")

    async with on(database_url, tmp_path) as (made, client):
        running, run = await made.running()
        failed, _ = await made.running()
        await made.store.transition(failed.id, JobState.RUNNING, JobState.FAILED)
        requests = [
            ("POST", "/v1/jobs", SPEC),
            ("POST", f"/v1/jobs/{running.id}/checkpoint", None),
            ("POST", f"/v1/jobs/{failed.id}/retry", None),
            ("PATCH", f"/v1/jobs/{running.id}", {"priority": 7}),
        ]
        monkeypatch.setattr(made.store, "remember_request", dies)
        for number, (method, url, body) in enumerate(requests):
            answer = await client.request(method, url, json=body, headers=key(f"k{number}"))
            check_problem(answer, 503)
        history = await made.store.history(failed.id)
        # Meanwhile others go on: a repetition must not undo that.
        await made.store.set_priority(running.id, -3)
    async with on(database_url, tmp_path) as (made, client):
        mailbox = Mailbox(run)
        for number, (method, url, body) in enumerate(requests):
            answer = await client.request(method, url, json=body, headers=key(f"k{number}"))
            assert answer.status_code in (200, 202), answer.text
        assert [command.kind for command in mailbox.take()] == ["checkpoint"]
        assert len((await client.get("/v1/jobs")).json()["items"]) == 3
        assert await made.store.history(failed.id) == history
        assert (await made.store.get(running.id)).priority == -3


async def test_a_key_from_before_this_table_still_returns_its_job(database_url, tmp_path):
    async with on(database_url, tmp_path) as (made, client):
        spec = JobSpec.model_validate((await client.post("/v1/jobs:validate", json=SPEC)).json()["spec"])
        earlier = await made.store.submit(spec, owner="local", idempotency_key="k")
        again = await client.post("/v1/jobs", json=SPEC, headers=key("k"))
        assert (again.status_code, again.json()["id"]) == (200, earlier[0].id)
        check_problem(await client.post("/v1/jobs", json={**SPEC, "steps": 3}, headers=key("k")), 409)
