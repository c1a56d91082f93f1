"""HEAD, OPTIONS and conditional requests of every route."""

import pytest
from support.service import check_problem, listening, sample, service

pytestmark = pytest.mark.anyio

OWN_TO_EACH_RESPONSE = {"date", "x-request-id"}


async def filled(made):
    """Return the GET routes of a running job with a sample and a metric, and of the service."""
    job, run = await made.running()
    run.append_samples([sample(str(made.clip()))])
    run.append_metrics({"step": 1, "reward/mean": 0.5})
    client = made.client()
    [found] = (await client.get(f"/v1/jobs/{job.id}/samples")).json()["items"]
    names = {"job_id": job.id, "sample": found["id"], "code": "job_not_found"}
    paths = [path.format(**names) for path, of in made.app.openapi()["paths"].items() if "get" in of]
    assert len(paths) >= 18
    return job, client, [*paths, "/openapi.json", "/docs", "/v1/jobs/none", "/nowhere"]


async def test_head_has_the_headers_of_get_and_no_body(tmp_path):
    async with service(tmp_path, max_stream_seconds=0.01) as made:
        _, client, paths = await filled(made)
        for path in paths:
            if path.endswith("/metrics"):
                # Its text changes with each request.
                continue
            get, head = await client.get(path), await client.head(path)
            assert head.status_code == get.status_code < 500, path
            assert head.content == b"" or head.status_code >= 400, path
            kept = [
                {k: v for k, v in response.headers.items() if k not in OWN_TO_EACH_RESPONSE} for response in (get, head)
            ]
            assert kept[0] == kept[1], path
        assert (await client.head("/metrics")).status_code == 200


async def test_the_app_itself_sends_no_body_for_head(tmp_path):
    """Clients and servers leave it out, too; the file or the list should not be sent to them in the first place."""
    async with service(tmp_path) as made:
        _, _, paths = await filled(made)
        for path in (path for path in paths if path.endswith(("/v1/jobs", "/audio", "/events", "/docs"))):
            sent = []

            async def receive():
                return {"type": "http.request", "body": b"", "more_body": False}

            async def send(message, sent=sent):
                sent.append(message)

            scope = {
                "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "HEAD", "path": path,
                "raw_path": path.encode(), "query_string": b"", "root_path": "", "scheme": "http",
                "headers": [(b"host", b"127.0.0.1:8000")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000),
            }  # fmt: skip
            await made.app(scope, receive, send)
            assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"], path
            assert (sent[0]["status"], sent[1]["body"]) == (200, b""), path
            assert scope["method"] == "HEAD"


async def test_head_of_a_stream_and_a_clip_over_a_socket(tmp_path):
    async with listening(tmp_path, heartbeat_seconds=60) as (made, client):
        job, _, paths = await filled(made)
        [clip] = [path for path in paths if path.endswith("/audio")]
        for path in (f"/v1/jobs/{job.id}/events", f"/v1/jobs/{job.id}/logs"):
            head = await client.head(path)
            assert (head.status_code, head.headers["content-type"][:17]) == (200, "text/event-stream"), path
        assert made.app.state.context.tails.streams == 0
        head, whole = await client.head(clip, headers={"Range": "bytes=0-3"}), await client.get(clip)
        assert head.headers["content-length"] == str(len(whole.content)) == "32044"
        # The connections are in order afterwards.
        assert (await client.get("/healthz")).status_code == 200


async def test_options_and_405_name_every_method_of_a_path(tmp_path):
    async with service(tmp_path) as made:
        client = made.client()
        document = made.app.openapi()["paths"]
        for path, operations in document.items():
            expected = {method.upper() for method in operations} | {"OPTIONS"}
            expected |= {"HEAD"} if "GET" in expected else set()
            url = path.format(job_id="x", sample="1-1-0-00000000", code="x")
            options = await client.options(url)
            assert (options.status_code, options.content) == (204, b""), path
            assert set(options.headers["allow"].split(", ")) == expected, path
            refused = await client.request("PUT", url)
            assert check_problem(refused, 405)["code"] == "method_not_allowed"
            assert set(refused.headers["allow"].split(", ")) == expected, path
        check_problem(await client.options("/nowhere"), 404)


async def test_an_unchanged_response_is_304_without_a_body(tmp_path):
    async with service(tmp_path) as made:
        _, client, paths = await filled(made)
        accept = {"Accept": "application/json"}
        cached = [
            path for path in paths if path not in {"/healthz", "/readyz", "/metrics", "/v1/jobs/none", "/nowhere"}
        ]
        saved = 0
        for path in cached:
            first = await client.get(path, headers=accept)
            etag = first.headers["etag"]
            assert first.headers["cache-control"] == "private, no-cache", path
            assert "authorization" in first.headers["vary"].lower(), path
            for given in (etag, f"W/{etag}", f'"other", {etag}', f'W/"a,b" , {etag}', "*"):
                again = await client.get(path, headers={**accept, "If-None-Match": given})
                assert (again.status_code, again.content) == (304, b""), (path, given)
                assert again.headers["etag"] == etag
                assert again.headers["cache-control"] == "private, no-cache"
                assert "content-type" not in again.headers, path
            for given in ('"other"', "nonsense", "", f"{etag[:-1]}x", etag.strip('"')):
                again = await client.get(path, headers={**accept, "If-None-Match": given})
                assert (again.status_code, again.content) == (200, first.content), (path, given)
            saved += len(first.content)
        assert saved > 10_000
        text = (await client.get("/metrics")).text
        assert 'earshot_http_requests_total{method="GET",route="/v1/jobs/{job_id}",status="304"} 5.0' in text


async def test_a_change_makes_another_etag(tmp_path):
    async with service(tmp_path) as made:
        job, client, _ = await filled(made)
        url = f"/v1/jobs/{job.id}/metrics"
        first = await client.get(url)
        from orchestrator.run.directory import RunDirectory

        RunDirectory(job.run_dir).append_metrics({"step": 2, "reward/mean": 0.75})
        again = await client.get(url, headers={"If-None-Match": first.headers["etag"]})
        assert again.status_code == 200
        assert again.json()["last_step"] == 2


async def test_errors_health_and_prometheus_are_not_kept(tmp_path):
    async with service(tmp_path) as made:
        client = made.client()
        for path in ("/healthz", "/readyz", "/metrics", "/v1/jobs/none", "/nowhere"):
            response = await client.get(path, headers={"If-None-Match": "*"})
            assert response.status_code in {200, 404}
            assert response.headers["cache-control"] == "no-store"
            assert "etag" not in response.headers


async def test_a_post_has_no_etag(tmp_path):
    async with service(tmp_path) as made:
        job, client, _ = await filled(made)
        response = await client.post(f"/v1/jobs/{job.id}/cancel", headers={"If-None-Match": "*"})
        assert response.status_code == 200
        assert "etag" not in response.headers
        assert response.json()["id"] == job.id
