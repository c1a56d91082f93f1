"""Versions and limits of the service, the user who asks, and the audit log in pages."""

from datetime import UTC, datetime, timedelta
from importlib.metadata import version

import pytest
from support.service import SPEC, check_problem, service

from orchestrator.service.store.access import Role
from orchestrator.service.store.credentials import new_token, token_hash
from orchestrator.service.supervision.limits import Limits

pytestmark = pytest.mark.anyio


async def test_the_versions(tmp_path):
    async with service(tmp_path) as made:
        found = (await made.client().get("/v1/version")).json()
        assert found == {"earshot": version("earshot"), "api": "1", "ray": version("ray")}
        assert made.app.openapi()["info"]["version"] == "1"
    async with service(tmp_path, local=False) as made:
        for path in ("version", "me", "limits", "audit"):
            check_problem(await made.client().get(f"/v1/{path}"), 401)


async def test_a_user_sees_who_they_are(tmp_path):
    async with service(tmp_path) as made:
        await made.job()
        me = (await made.client().get("/v1/me")).json()
        assert (me["owner"], me["role"], me["local"], me["token"]) == ("local", "admin", True, None)
        secret, expires = new_token(), datetime.now(UTC) + timedelta(days=1)
        token = await made.store.create_token(
            name="laptop", owner="ann", role=Role.VIEWER, token_hash=token_hash(secret), expires_at=expires
        )
        await made.running("ann")
        answer = await made.client(secret).get("/v1/me")
        me = answer.json()
        assert (me["owner"], me["role"], me["local"]) == ("ann", "viewer", False)
        assert (me["token"]["id"], me["token"]["name"]) == (token.id, "laptop")
        assert datetime.fromisoformat(me["token"]["expires_at"]) == expires
        assert me["jobs"]["running"] == 1
        assert sum(me["jobs"].values()) == 1
        assert secret not in answer.text


async def test_the_limits(tmp_path):
    bounds = Limits(running=4, gpus_per_user=2)
    settings = {"limits": bounds, "preemption": True, "judge_hosts": ("judge:8000",), "requests_per_second": 7.0}
    settings["owner_roots"] = {"vic": (tmp_path / "of-vic",), "ann": (tmp_path / "of-ann",)}
    async with service(tmp_path, **settings) as made:
        viewer = made.client(await made.token("vic", Role.VIEWER))
        found = (await viewer.get("/v1/limits")).json()
        assert (found["jobs"]["running"], found["jobs"]["gpus"]) == (4, None)
        assert (found["jobs_per_user"]["running"], found["jobs_per_user"]["gpus"]) == (None, 2.0)
        assert (found["requests"]["body_bytes"], found["requests"]["per_second"]) == (1024 * 1024, 7.0)
        assert (found["preemption"], found["storage"], found["keep_days"]) == (True, False, None)
        assert found["judge_hosts"] == ["judge:8000"]
        # Where other users keep their files is not said, not even to an admin.
        assert found["roots"] == [str(made.data), str(tmp_path / "of-vic")]
        assert (await made.client().get("/v1/limits")).json()["roots"] == [str(made.data)]


async def test_the_audit_log_in_pages(tmp_path):
    async with service(tmp_path) as made:
        admin, ann = made.client(), made.client(await made.token("ann"))
        mine = [(await ann.post("/v1/jobs", json=SPEC)).json()["id"] for _ in range(3)]
        other = (await admin.post("/v1/jobs", json=SPEC)).json()["id"]
        await admin.post(f"/v1/jobs/{mine[0]}/cancel")
        check_problem(await ann.post("/v1/jobs", json={**SPEC, "steps": -1}), 422)
        await made.store.audit("ann", "token.create", target="t", detail={"api_key": "hidden", "role": "viewer"})

        async def pages(client, **query):
            items, cursor = [], None
            while True:
                page = (await client.get("/v1/audit", params=query | ({"cursor": cursor} if cursor else {}))).json()
                items += page["items"]
                cursor = page["next_cursor"]
                if cursor is None:
                    return items

        own = await pages(ann, limit=2)
        assert [(one["action"], one["target"]) for one in own] == [
            ("token.create", "t"), ("job.submit", ""), *(("job.submit", target) for target in mine[::-1]),
        ]  # fmt: skip
        assert {one["actor"] for one in own} == {"ann"}
        assert "steps" in own[1]["outcome"]
        assert own[0]["detail"] == {"api_key": "…", "role": "viewer"}
        assert len(await pages(admin, limit=2)) == 7
        assert [one["target"] for one in await pages(admin, actor="local")] == [mine[0], other]
        assert [one["actor"] for one in await pages(admin, action="job.cancel")] == ["local"]
        assert [one["action"] for one in await pages(admin, target=mine[0])] == ["job.cancel", "job.submit"]
        assert await pages(ann, actor="local") == []
        assert [one["action"] for one in await pages(ann, target=mine[0])] == ["job.submit"]
        later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        assert await pages(admin, since=later) == []
        assert len(await pages(admin, since="2020-01-01T00:00:00+14:00")) == 7
        jobs_cursor = (await admin.get("/v1/jobs", params={"limit": 1})).json()["next_cursor"]
        for cursor in ("nonsense", jobs_cursor):
            check_problem(await admin.get("/v1/audit", params={"cursor": cursor}), 400)
        for since in ("2020-01-01T00:00:00", "0001-01-01T00:00:00+14:00", "yesterday"):
            check_problem(await admin.get("/v1/audit", params={"since": since}), 422)
