"""Ranges of a clip as RFC 9110 has them: what is not a list of byte ranges is ignored."""

import os
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.utils import format_datetime

import pytest
from support.service import check_problem, sample, service

from orchestrator.service.api.replies.byte_ranges import ByteRange, UnsatisfiableRangeError, parse_ranges

IGNORED = (
    "items=0-5", "bytes", "bytes=", "bytes=,", "bytes 0-5", "bytes=5-2", "bytes=a-b", "bytes=-", "bytes=0-5-6",
    "bytes=0-1,x", "seconds=1-2", "", "bytes=0x1-2", "bytes=+1-2", "bytes=1-2;q=1", "none", "bytes==0-1",
    "bytes=" + ",".join(f"{i}-{i}" for i in range(17)), "bytes=" + "9" * 5000 + "-", "bytes=١-٢",
)  # fmt: skip


@pytest.mark.parametrize("header", IGNORED)
def test_what_is_no_list_of_byte_ranges_is_ignored(header):
    assert parse_ranges(header, 100) is None


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", [(0, 1)]),
        ("bytes=10-19", [(10, 20)]),
        ("Bytes = 10-19", [(10, 20)]),
        ("bytes=90-", [(90, 100)]),
        ("bytes=-10", [(90, 100)]),
        ("bytes=-1000", [(0, 100)]),
        ("bytes=95-1000", [(95, 100)]),
        ("bytes=50-59,0-9", [(50, 60), (0, 10)]),
        ("bytes=0-9,200-300", [(0, 10)]),
        ("bytes=0-9,,20-29,", [(0, 10), (20, 30)]),
        ("bytes=20-29,0-25,5-6", [(0, 30)]),
        ("bytes=0-" + "9" * 100, [(0, 100)]),
    ],
)
def test_ranges(header, expected):
    assert parse_ranges(header, 100) == [ByteRange(*pair) for pair in expected]


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200,300-", "bytes=-0", "bytes=" + "9" * 30 + "-"])
def test_ranges_without_a_byte_of_the_file(header):
    with pytest.raises(UnsatisfiableRangeError):
        parse_ranges(header, 100)


def test_an_empty_file_has_no_range():
    with pytest.raises(UnsatisfiableRangeError):
        parse_ranges("bytes=0-", 0)


async def clip_of(made):
    job, run = await made.running()
    clip = made.clip()
    run.append_samples([sample(str(clip))])
    client = made.client()
    [found] = (await client.get(f"/v1/jobs/{job.id}/samples")).json()["items"]
    return clip, client, found["audio_url"]


@pytest.mark.anyio
async def test_a_clip_in_ranges(tmp_path):
    async with service(tmp_path) as made:
        clip, client, url = await clip_of(made)
        data = clip.read_bytes()
        for header in IGNORED:
            whole = await client.get(url, headers=[(b"range", header.encode())])
            assert (whole.status_code, whole.content) == (200, data), header
            assert whole.headers["accept-ranges"] == "bytes"
        part = await client.get(url, headers={"Range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, data[10:20])
        assert part.headers["content-range"] == f"bytes 10-19/{len(data)}"
        assert part.headers["content-type"] == "audio/wav"
        last = await client.get(url, headers={"Range": "bytes=-7"})
        assert (last.status_code, last.content) == (206, data[-7:])
        refused = await client.get(url, headers={"Range": f"bytes={len(data)}-"})
        assert check_problem(refused, 416)["code"] == "range_not_satisfiable"
        assert refused.headers["content-range"] == f"bytes */{len(data)}"


@pytest.mark.anyio
async def test_several_ranges_are_parts_with_their_places(tmp_path):
    async with service(tmp_path) as made:
        clip, client, url = await clip_of(made)
        data = clip.read_bytes()
        response = await client.get(url, headers={"Range": "bytes=100-199,0-9,-5"})
        assert response.status_code == 206
        assert response.headers["content-length"] == str(len(response.content))
        head = f"Content-Type: {response.headers['content-type']}\r\n\r\n".encode()
        parts = message_from_bytes(head + response.content).get_payload()
        assert [(part["Content-Range"], part.get_payload(decode=True)) for part in parts] == [
            (f"bytes 100-199/{len(data)}", data[100:200]),
            (f"bytes 0-9/{len(data)}", data[:10]),
            (f"bytes {len(data) - 5}-{len(data) - 1}/{len(data)}", data[-5:]),
        ]


@pytest.mark.anyio
async def test_a_range_of_another_version_is_the_whole_clip(tmp_path):
    async with service(tmp_path) as made:
        clip, client, url = await clip_of(made)
        data = clip.read_bytes()
        whole = await client.get(url)
        etag, modified = whole.headers["etag"], whole.headers["last-modified"]
        later = format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True)
        for condition, status in (
            (etag, 206), (modified, 206), (f"W/{etag}", 200), ('"other"', 200), (later, 200), ("nonsense", 200),
        ):  # fmt: skip
            response = await client.get(url, headers={"Range": "bytes=0-9", "If-Range": condition})
            assert response.status_code == status, condition
            assert response.content == (data[:10] if status == 206 else data)
        for header in ({"If-None-Match": etag}, {"If-None-Match": "*"}, {"If-Modified-Since": modified}):
            unchanged = await client.get(url, headers={**header, "Range": "bytes=0-9"})
            assert (unchanged.status_code, unchanged.content) == (304, b"")
            assert unchanged.headers["etag"] == etag
        # The ETag decides if both are given.
        both = {"If-None-Match": '"other"', "If-Modified-Since": modified}
        assert (await client.get(url, headers=both)).status_code == 200
        status = clip.stat()
        os.utime(clip, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        assert (await client.get(url, headers={"If-None-Match": etag})).status_code == 200
