"""Lines in the files of a run that Earshot did not write, or not in full: they hide nothing else."""

import json
from pathlib import Path

import pytest
from support.service import check_problem, sample, service

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "line", [b"torn", b"[1]", b"", b"null", b"\xff", b'{"kind":5}', b'{"kind":"x","time":3}', b'{"kind":"\\ud800"}']
)
async def test_a_line_that_is_no_event(tmp_path, line):
    async with service(tmp_path, max_stream_seconds=0.05) as made:
        job, run = await made.running()
        with (Path(job.run_dir) / "events.jsonl").open("ab") as file:
            file.write(line + b"\n")
        run.append_event("scaled", before=2, target=3, reason="asked for")
        client, url = made.client(), f"/v1/jobs/{job.id}/events"
        page = await client.get(url, headers={"Accept": "application/json"})
        assert page.status_code == 200, page.text
        last = page.json()["items"][-2:]
        assert [each["kind"] for each in last] == ["unreadable", "scaled"]
        stream = await client.get(url, headers={"Accept": "text/event-stream"})
        data = [json.loads(each[6:]) for each in stream.text.split("\n") if each.startswith("data: ")]
        assert [each["kind"] for each in data[-2:]] == ["unreadable", "scaled"]
        ids = [each[4:] for each in stream.text.split("\n") if each.startswith("id: ")]
        assert ids[-2:] == [each["cursor"] for each in last]


@pytest.mark.parametrize("line", [b'{"step":1}', b'{"step":1,"text":5,"draw":-3}', b'{"step":99999999999999999999}'])
async def test_a_line_that_is_no_sample(tmp_path, line):
    async with service(tmp_path) as made:
        job, run = await made.running()
        run.append_samples([sample(str(made.clip()))])
        with (Path(job.run_dir) / "samples.jsonl").open("ab") as file:
            file.write(line + b"\n")
        refused = check_problem(await made.client().get(f"/v1/jobs/{job.id}/samples"), 409)
        assert refused["code"] == "run_unreadable"
