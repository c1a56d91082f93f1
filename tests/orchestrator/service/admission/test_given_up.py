"""A check that nobody waits for any more ends, and keeps no one from the checks of others."""

import asyncio
import json
import time
from pathlib import Path

import pytest
from support.runs.admitting import allowing
from support.service import SPEC

from orchestrator.job.spec import JobSpec
from orchestrator.service.admission.admission import Admission
from orchestrator.service.admission.limits import CheckLimits

pytestmark = pytest.mark.anyio
ITEM = {"id": "1", "audio": "clip.wav", "question": "?", "choices": ["a", "b"], "answer": "a"}
LONG = 8
"""Seconds that a check of the long file takes at least, on any machine: its limit."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def _owns(_: str) -> bool:
    return False


def job_of(file: Path, content: str) -> JobSpec:
    file.write_text(content)
    return JobSpec.model_validate({**SPEC, "data": {"train": str(file)}})


def short_job(folder: Path) -> JobSpec:
    (folder / "clip.wav").write_bytes(b"x")
    return job_of(folder / "short.jsonl", json.dumps(ITEM))


@pytest.mark.parametrize("after", [0, 0.001, 0.1])
async def test_a_check_that_is_given_up_frees_its_process_at_once(tmp_path: Path, after: float) -> None:
    short, long = short_job(tmp_path), job_of(tmp_path / "long.csv", "id,audio,question\n" + "\n" * 150_000_000)
    admission = Admission(allowing(tmp_path), CheckLimits(at_once=1, seconds=LONG))
    try:
        await admission.admit(short, _owns, "bob")  # from here on, a process is ready
        given_up = asyncio.create_task(admission.admit(long, _owns, "eve"))
        await asyncio.sleep(after)
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        started = time.monotonic()
        await admission.admit(short, _owns, "bob")
        # A start of the process takes about a second; the long check was begun again and lasted for its whole limit.
        assert time.monotonic() - started < LONG / 2
    finally:
        admission.close()
