"""Query parameters that a route does not take are refused, on every route."""

import pytest
from support.service import check_problem, service

pytestmark = pytest.mark.anyio


async def test_every_route_refuses_an_unknown_parameter(tmp_path):
    async with service(tmp_path) as made:
        job, _ = await made.running()
        client = made.client()
        names = {"job_id": job.id, "sample": "1-1-0-00000000", "code": "job_not_found"}
        routes = [
            (method, path.format(**names), operation)
            for path, operations in made.app.openapi()["paths"].items()
            for method, operation in operations.items()
        ]
        for method, path, operation in [*routes, ("get", "/openapi.json", {}), ("get", "/docs", {})]:
            known = [each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"]
            for query in ("surplus=1", "Surplus", "limit%00x=1", "x" * 300 + "=1", "=1"):
                response = await client.request(method, f"{path}?{query}", headers={"Accept": "application/json"})
                if "%00" in query:
                    check_problem(response, 400)
                    continue
                found = check_problem(response, 422)
                assert found["code"] == "unknown_parameter", path
                assert all(name in found["detail"] for name in known), path
                assert ("none" in found["detail"]) == (not known), path
                assert len(found["detail"]) < 1000


async def test_a_misspelt_parameter_gets_a_suggestion(tmp_path):
    async with service(tmp_path) as made:
        client = made.client()
        found = check_problem(await client.get("/v1/jobs?stat=failed"), 422)
        assert found["detail"].startswith("'stat' is not a parameter of this route; did you mean 'state'?")
        found = check_problem(await client.get("/v1/jobs?LIMIT=3"), 422)
        assert "did you mean 'limit'?" in found["detail"]


async def test_a_parameter_given_twice(tmp_path):
    async with service(tmp_path) as made:
        job, _ = await made.running()
        client = made.client()
        found = check_problem(await client.get("/v1/jobs?limit=1&limit=2"), 422)
        assert (found["code"], found["detail"]) == ("invalid_request", "query.limit: is given twice; send it once")
        assert found["errors"] == [{"field": "query.limit", "problem": "is given twice; send it once"}]
        for allowed in ("/v1/jobs?state=failed&state=running", f"/v1/jobs/{job.id}/metrics?names=a&names=b"):
            assert (await client.get(allowed)).status_code == 200


async def test_cursor_and_tail_exclude_each_other(tmp_path):
    async with service(tmp_path) as made:
        job, run = await made.running()
        client, accept = made.client(), {"Accept": "application/json"}
        for what in ("events", "logs"):
            url = f"/v1/jobs/{job.id}/{what}"
            found = check_problem(await client.get(f"{url}?cursor=0&tail=1", headers=accept), 422)
            assert found["code"] == "invalid_request"
            assert "cursor" in found["detail"] and "tail" in found["detail"]
        # A browser repeats the address when it reconnects.
        url = f"/v1/jobs/{job.id}/events"
        page = (await client.get(f"{url}?tail=2", headers={**accept, "Last-Event-ID": "0"})).json()
        assert len(page["items"]) == len(run.events())
