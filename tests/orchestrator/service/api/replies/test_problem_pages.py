"""Problems as a contract: every code is explained, raised, and listed for the routes that answer with it."""

import random
import re
from pathlib import Path

import pytest
from support.service import check_problem, sample, service

from orchestrator.schemas.problem_code import KINDS, ProblemCode

PACKAGE = Path(__file__).parents[5] / "orchestrator"


def test_every_code_is_explained_and_raised():
    assert set(KINDS) == set(ProblemCode)
    text = "\n".join(
        path.read_text() for path in PACKAGE.joinpath("service").rglob("*.py") if "ProblemCode" in path.read_text()
    )
    raised = set(re.findall(r"ProblemCode\.([A-Z_]+)", text))
    assert {code.name for code in ProblemCode} - raised == set()
    for code, kind in KINDS.items():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", code)
        assert 400 <= kind.status < 600
        assert kind.title[0].isupper() and not kind.title.endswith(".")
        assert kind.meaning.endswith(".") and "\n" not in kind.meaning


@pytest.mark.anyio
async def test_every_problem_has_a_page_and_a_document(tmp_path):
    async with service(tmp_path, local=False) as made:
        client = made.client()
        listed = (await client.get("/problems")).json()["items"]
        assert [kind["code"] for kind in listed] == list(KINDS)
        for kind in listed:
            one = await client.get(kind["type"])
            assert one.json() == kind
            page = await client.get(kind["type"], headers={"Accept": "text/html,*/*"})
            assert page.headers["content-type"].startswith("text/html")
            assert kind["code"] in page.text
            assert page.headers["vary"].lower().startswith("accept")
        found = check_problem(await client.get("/problems/<script>"), 404)
        assert found["code"] == "problem_not_found"
        whole = await client.get("/problems", headers={"Accept": "text/html"})
        assert all(code in whole.text for code in KINDS)
        assert "<script" not in whole.text


@pytest.mark.anyio
async def test_what_routes_answer_is_in_the_document(tmp_path):
    """Send faults of many kinds to every route: each problem is listed for its route, with its status."""
    async with service(tmp_path, max_streams=0, refusals_per_second=1e6) as made:
        job, run = await made.running()
        run.append_samples([sample(str(made.clip()))])
        client, document = made.client(), made.app.openapi()
        [found] = (await client.get(f"/v1/jobs/{job.id}/samples")).json()["items"]
        chance, met = random.Random(5), set()
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                answers = {
                    code: int(status)
                    for status, response in operation["responses"].items()
                    for code in response.get("x-problem-codes", ())
                }
                assert all(KINDS[ProblemCode(code)].status == status for code, status in answers.items())
                names = {"job_id": job.id, "sample": found["id"], "code": "job_not_found"}
                for _ in range(25):
                    given = names | chance.choice(
                        [{}, {}, {}, {"job_id": "none"}, {"job_id": "!"}, {"sample": "3"}, {"sample": "1-1-1-00000000"}]
                    )
                    query = chance.choice(
                        ["", "", "limit=0", "limit=x", "cursor=zz", "cursor=1", "tail=1", "other=1", "x" * 9000]
                    )
                    headers = chance.choice(
                        [
                            {}, {}, {"Authorization": "Bearer earshot_x"}, {"Accept": "application/json"},
                            {"Range": "bytes=999999999-"}, {"Idempotency-Key": "é"}, {"Content-Type": "text/plain"},
                            {"Content-Length": "9999999999"},
                        ]
                    )  # fmt: skip
                    body = chance.choice([b"", b"{", b"[]", b"{}", b'{"count": -1}', b'{"count": 1}', b'{"name": 1}'])
                    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
                    url = f"{path.format(**given)}?{query}" if query else path.format(**given)
                    sent = {} if method == "get" else {"content": body}
                    response = await client.request(method, url, headers=raw, **sent)
                    if response.status_code >= 400:
                        problem = check_problem(response, response.status_code)
                        assert answers.get(problem["code"]) == response.status_code, (method, path, problem)
                        assert problem["type"] == f"/problems/{problem['code']}"
                        met.add(problem["code"])
        assert len(met) >= 12, met
