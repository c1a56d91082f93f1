"""Requests that HTTP allows and few clients send, and what their refusals say."""

import asyncio

import pytest
from support.service import check_problem, listening, sample, service

pytestmark = pytest.mark.anyio
JSON = {"Accept": "application/json"}


async def with_clip(made):
    """Return a running job, and the path of the clip of its only sample."""
    job, run = await made.running()
    run.append_samples([sample(str(made.clip()))])
    [found] = (await made.client().get(f"/v1/jobs/{job.id}/samples")).json()["items"]
    return job, found["audio_url"]


async def test_a_clip_of_another_version_is_not_sent(tmp_path):
    """A download that is continued must not join parts of two files."""
    async with service(tmp_path) as made:
        _, clip = await with_clip(made)
        client = made.client()
        first = await client.get(clip)
        etag, modified = first.headers["etag"], first.headers["last-modified"]
        for condition in (
            {"If-Match": '"other"'},
            {"If-Match": f"W/{etag}"},
            {"If-Unmodified-Since": "Mon, 01 Jan 2001 00:00:00 GMT"},
        ):
            refused = await client.get(clip, headers={"Range": "bytes=5-", **condition})
            assert check_problem(refused, 412)["code"] == "precondition_failed", condition
            assert (await client.head(clip, headers=condition)).status_code == 412
        for condition in (
            {"If-Match": "*"},
            {"If-Match": f'"other", {etag}'},
            {"If-Unmodified-Since": modified},
            {"If-Unmodified-Since": "nonsense"},
            {"If-Match": etag, "If-Unmodified-Since": "Mon, 01 Jan 2001 00:00:00 GMT"},
        ):
            part = await client.get(clip, headers={"Range": "bytes=5-", **condition})
            assert (part.status_code, part.content) == (206, first.content[5:]), condition


async def test_a_change_with_a_condition_is_not_made(tmp_path):
    async with service(tmp_path) as made:
        job = await made.job()
        client, url = made.client(), f"/v1/jobs/{job.id}"
        etag = (await client.get(url)).headers["etag"]
        for condition in ({"If-Match": '"old"'}, {"If-Match": etag}, {"If-Unmodified-Since": "nonsense"}):
            for method, path, body in (
                ("PATCH", url, {"priority": 7}),
                ("POST", f"{url}/cancel", None),
                ("DELETE", url, None),
            ):
                refused = await client.request(method, path, json=body, headers=condition)
                found = check_problem(refused, 412)
                assert found["code"] == "precondition_failed"
                assert "without If-Match" in found["detail"]
        left = (await client.get(url)).json()
        assert (left["priority"], left["state"]) == (0, "queued")
        changed = await client.patch(url, json={"priority": 7}, headers={"If-Match": "*"})
        assert changed.json()["priority"] == 7


async def test_elements_of_a_list_of_etags_may_be_empty(tmp_path):
    async with service(tmp_path) as made:
        client = made.client()
        etag = (await client.get("/problems")).headers["etag"]
        for given in (f", {etag}", f',,"a",,{etag},', f"{etag},"):
            assert (await client.get("/problems", headers={"If-None-Match": given})).status_code == 304, given


async def test_a_redirection_names_no_host(tmp_path):
    """The service may be behind a proxy with TLS: a client sent to http:// would send its token in plain text."""
    async with service(tmp_path) as made:
        client = made.client()
        for method in ("GET", "HEAD", "POST", "OPTIONS"):
            moved = await client.request(method, "/v1/jobs/?limit=3", headers={"Host": "localhost"})
            assert (moved.status_code, moved.headers["location"]) == (307, "/v1/jobs?limit=3"), method
        assert (await client.get("/v1/me/", follow_redirects=True)).json()["owner"] == "local"


@pytest.mark.parametrize(
    ("lines", "detail"),
    [
        ("Host: 127.0.0.1\r\nHost: other\r\n", "the header host is given twice; send it once"),
        ("Host: 127.0.0.1\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n", "the header authorization is"),
        ("Host: 127.0.0.1\r\nIdempotency-Key: a\r\nidempotency-key: a\r\n", "the header idempotency-key is given"),
        ("Accept: */*\r\n", "the header Host is missing, which"),
    ],
)
async def test_headers_that_programs_may_read_differently(tmp_path, lines, detail):
    async with listening(tmp_path) as (_, client):
        reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
        writer.write(f"GET /healthz HTTP/1.1\r\n{lines}Connection: close\r\n\r\n".encode())
        answer = (await reader.read()).decode()
        writer.close()
        assert answer.startswith("HTTP/1.1 400 "), answer
        assert '"malformed_request"' in answer
        assert f'"detail": "{detail}' in answer


async def test_refusals_have_words_instead_of_patterns(tmp_path):
    async with service(tmp_path) as made:
        job, _ = await made.running()
        client, url = made.client(), f"/v1/jobs/{job.id}"
        for path, status, code, words in (
            ("/v1/jobs/small.v1", 404, "job_not_found", "there is no job 'small.v1'"),
            (f"/v1/jobs/{'x' * 65}/metrics", 404, "job_not_found", "there is no job 'xxx"),
            (f"{url}/samples?cursor=abc", 400, "invalid_cursor", "'abc' is not a cursor of a list of samples"),
            (f"{url}/samples/abc/audio", 404, "sample_not_found", "'abc' is not the id of a sample; list the"),
            (f"{url}/samples/12/audio", 404, "sample_not_found", "but in an earlier version"),
            (f"{url}/events?cursor=abc", 400, "invalid_cursor", "'abc' is not the id of an event or line; start"),
            (f"{url}/logs?cursor=", 400, "invalid_cursor", "'' is not the id of an event or line; start over"),
            ("/v1/jobs?limit=ten", 422, "invalid_request", "query.limit: write a whole number in decimal digits"),
        ):
            found = check_problem(await client.get(path, headers=JSON), status)
            assert found["code"] == code, path
            assert words in found["detail"], path
        found = check_problem(await client.get(f"{url}/events", headers={**JSON, "Last-Event-ID": "x"}), 400)
        assert found["code"] == "invalid_cursor"
        found = check_problem(await client.post(f"{url}/cancel", headers={"Idempotency-Key": "my key"}), 422)
        words = "header.Idempotency-Key: a key has 1 to 255 characters of ASCII, none of them a space"
        assert found["detail"] == words
        # As of a browser that has got no event yet.
        assert (await client.get(f"{url}/events", headers={**JSON, "Last-Event-ID": ""})).status_code == 200


async def test_a_body_that_is_not_valid_names_its_fields(tmp_path):
    async with service(tmp_path) as made:
        job, _ = await made.running()
        found = check_problem(await made.client().patch(f"/v1/jobs/{job.id}", json={"priority": 1000}), 422)
        assert [each["field"] for each in found["errors"]] == ["body.priority"]
