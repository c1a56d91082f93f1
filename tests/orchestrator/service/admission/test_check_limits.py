"""Checks of jobs end within their limits, and hold up nothing else."""

import asyncio
import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.runs.admitting import allowing
from support.service import SPEC, service

from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError
from orchestrator.service.admission.admission import Admission, AdmissionBusyError, Admitted
from orchestrator.service.admission.limits import CheckLimits
from orchestrator.service.admission.turns import Turns

pytestmark = pytest.mark.anyio
GIB = 2**30
ITEM = {"id": "1", "audio": "clip.wav", "question": "?", "choices": ["a", "b"], "answer": "a"}
SMALL = CheckLimits(memory_bytes=80 * 2**20, cpu_seconds=10, seconds=20)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def _owns(_: str) -> bool:
    return False


def job_of(file: Path) -> JobSpec:
    return JobSpec.model_validate({**SPEC, "data": {"train": str(file)}})


def questions(folder: Path, count: int = 1) -> Path:
    (folder / "clip.wav").write_bytes(b"x")
    file = folder / f"{count}.jsonl"
    file.write_text("".join(json.dumps(ITEM | {"id": str(number)}) + "\n" for number in range(count)))
    return file


@asynccontextmanager
async def admission(root: Path, limits: CheckLimits) -> AsyncIterator[Admission]:
    made = Admission(allowing(root), limits)
    yield made
    made.close()


def sparse(file: Path) -> None:
    with file.open("wb") as opened:
        opened.truncate(3 * GIB)


def sparse_after_a_brace(file: Path) -> None:
    sparse(file)
    with file.open("r+b") as opened:
        opened.write(b"{" + b" " * 2**17)


def one_line(file: Path) -> None:
    with file.open("w") as opened:
        opened.write('{"questions": [')
        for _ in range(3):
            opened.write(f'{{"text": "{"x" * 2**25}"}},')


def deep(file: Path) -> None:
    file.write_text("[" * 10**6)


def many_objects(file: Path) -> None:
    file.write_text("[" + ",".join(["{}"] * 1_000_000) + "]")


def wide(file: Path) -> None:
    file.write_text(",".join(f"c{number}" for number in range(300_000)) + "\nquestion")


def packed(file: Path) -> None:
    file.write_bytes(gzip.compress(bytes(2**20)))


def parquet(file: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs the extra 'huggingface'")
    import pyarrow.parquet as files

    rows = 500_000
    column = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * rows, pyarrow.int32()), ["x" * 2**16])
    files.write_table(pyarrow.table({"question": column}), file, compression="zstd")


@pytest.mark.parametrize(
    "write",
    [sparse, sparse_after_a_brace, one_line, deep, many_objects, wide, packed, parquet],
    ids=lambda w: w.__name__,
)
async def test_no_file_takes_more_than_a_check_may(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "train")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    async with admission(tmp_path, SMALL) as checks:
        with pytest.raises(SpecError, match=r"^data\.train: ") as refused:
            await checks.admit(job_of(tmp_path / "train"), _owns)
        (admitted,) = [await checks.admit(job_of(questions(tmp_path)), _owns)]
        assert isinstance(admitted, Admitted)
    assert len(str(refused.value)) < 1000
    assert "\n" not in str(refused.value)
    assert time.monotonic() - started < SMALL.seconds + 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * 1024  # in KiB


async def test_a_check_ends_at_its_time_and_names_the_file(tmp_path: Path) -> None:
    many = questions(tmp_path, 150_000)
    async with admission(tmp_path, CheckLimits(seconds=0.3)) as checks:
        await checks.admit(job_of(questions(tmp_path)), _owns)
        with pytest.raises(SpecError, match=r"^data\.train: takes more than 0 s to check"):
            await checks.admit(job_of(many), _owns)
    async with admission(tmp_path, CheckLimits(cpu_seconds=0)) as checks:
        with pytest.raises(SpecError, match=r"^data\.train: takes more memory or processor time"):
            await checks.admit(job_of(many), _owns)


async def test_processes_are_used_again_and_end_with_the_service(tmp_path: Path) -> None:
    large = bytearray(b"x" * 2**28)  # the size of the service's own process does not count
    async with admission(tmp_path, CheckLimits()) as checks:
        await checks.admit(job_of(questions(tmp_path)), _owns)
        del large
        (pid,) = checks.pids
        for _ in range(3):
            await checks.admit(job_of(questions(tmp_path)), _owns)
            assert checks.pids == [pid]
        os.kill(pid, signal.SIGKILL)  # between two jobs: another process takes its place
        await checks.admit(job_of(questions(tmp_path)), _owns)
        (other,) = checks.pids
        assert other != pid
    deadline = time.monotonic() + 5
    while checks.pids and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    assert checks.pids == []


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from orchestrator.job.allowed import Allowed
from orchestrator.job.spec import JobSpec
from orchestrator.service.admission.admission import Admission

async def main():
    checks = Admission(Allowed((sys.argv[1],)))
    data = {"train": f"{sys.argv[1]}/1.jsonl"}
    job = JobSpec.model_validate({"model": {"path": "builtin:tiny-qwen2-audio"}, "data": data})
    await checks.admit(job, None)
    print(*checks.pids, flush=True)
    os.kill(checks.pids[0], signal.SIGSTOP)  # it does not see that the connection ends
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_a_process_ends_with_a_service_that_is_killed(tmp_path: Path) -> None:
    questions(tmp_path)
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    status = Path(f"/proc/{int(done.stdout)}/stat")

    def runs() -> bool:
        return status.exists() and status.read_text().rpartition(")")[2].split()[0] not in "ZX"

    deadline = time.monotonic() + 5
    while runs() and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    assert not runs()


async def test_a_process_knows_no_secret_of_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARSHOT_DATABASE_URL", "postgresql://user:password@host/db")
    monkeypatch.setenv("JUDGE_KEY", "secret")
    async with admission(tmp_path, CheckLimits()) as checks:
        await checks.admit(job_of(questions(tmp_path)), _owns)
        (pid,) = checks.pids
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        limits = Path(f"/proc/{pid}/limits").read_text()
    assert b"PATH=" in environment
    assert b"secret" not in environment
    assert b"password" not in environment
    by_name = {line[:26].strip(): line[26:].split()[0] for line in limits.splitlines()[1:]}
    assert by_name["Max core file size"] == by_name["Max file size"] == "0"
    assert by_name["Max address space"] != "unlimited"
    assert by_name["Max cpu time"] != "unlimited"


async def test_slow_checks_hold_up_no_other_request(tmp_path: Path) -> None:
    """As of a disk that does not answer: the processes are stopped."""
    limits = CheckLimits(seconds=2, at_once=2, at_once_per_user=2, waiting_seconds=0.5)
    async with service(tmp_path, check_limits=limits) as made:
        client, checks = made.client(), made.app.state.context.admission
        job = {**SPEC, "data": {"train": str(questions(made.data))}}
        both = [client.post("/v1/jobs", json=job) for _ in range(2)]
        assert {answer.status_code for answer in await asyncio.gather(*both)} == {201}
        for pid in checks.pids:
            os.kill(pid, signal.SIGSTOP)
        slow = [asyncio.create_task(client.post("/v1/jobs", json=job)) for _ in range(6)]
        await asyncio.sleep(0.1)
        slowest = 0.0
        while not all(task.done() for task in slow):
            started = time.monotonic()
            assert (await client.get("/v1/jobs")).status_code == 200
            assert (await client.post("/v1/jobs", json=SPEC)).status_code == 201  # names no file
            slowest = max(slowest, time.monotonic() - started)
            await asyncio.sleep(0.02)
        answers = [task.result() for task in slow]
        assert slowest < 1
        assert sorted(answer.status_code for answer in answers) == [422, 422, 503, 503, 503, 503]
        assert all("takes more than 2 s" in a.json()["detail"] for a in answers if a.status_code == 422)
        busy = [answer for answer in answers if answer.status_code == 503]
        assert all(a.json()["code"] == "admission_busy" and int(a.headers["retry-after"]) > 0 for a in busy)
        assert (await client.post("/v1/jobs", json=job)).status_code == 201


def turns(**limits: float) -> Turns:
    return Turns(**{"over_all": 3, "per_user": 2, "waiting_per_user": 2, "wait_seconds": 0.2, **limits})  # type: ignore[arg-type]


async def test_one_user_never_has_all_turns() -> None:
    held = turns()
    async with held.turn("ann"), held.turn("ann"), held.turn("bob"):
        for user in ("ann", "cay"):
            with pytest.raises(AdmissionBusyError, match="other jobs are being checked"):
                async with held.turn(user):
                    pass
    async with held.turn("cay"):
        pass


async def test_turns_are_passed_on_in_order_and_too_many_who_wait_are_refused_at_once() -> None:
    held, order = turns(per_user=1, wait_seconds=5), []

    async def work(number: int) -> None:
        async with held.turn("ann"):
            order.append(number)
            await asyncio.sleep(0.01)

    running = [asyncio.create_task(work(number)) for number in range(3)]
    await asyncio.sleep(0)
    started = time.monotonic()
    with pytest.raises(AdmissionBusyError, match="2 of your jobs wait"):
        await work(9)
    assert time.monotonic() - started < 1
    running[1].cancel()
    await asyncio.gather(*running, return_exceptions=True)
    assert order == [0, 2]
    async with held.turn("ann"):
        pass
