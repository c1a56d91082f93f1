"""A command that was answered with 202 is carried out, or its failure is an event, also if no driver reads it."""

import asyncio
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from support.service import check_problem, service
from support.supervised import Service, runner, serve

from orchestrator.run.commands import CommandKind
from orchestrator.run.directory import RunDirectory
from orchestrator.run.mailbox import send
from orchestrator.schemas.job_state import JobState
from orchestrator.service.api.routes import commands
from orchestrator.service.supervision.limits import Limits
from orchestrator.service.supervision.settlement import Settlement
from orchestrator.service.telemetry.file_threads import FileThreads

__all__ = ["runner", "serve"]

pytestmark = pytest.mark.anyio


def failed(run: RunDirectory) -> dict[str, str]:
    """Return the reason by id of the commands that failed."""
    return {e["id"]: e["reason"] for e in run.events() if e["kind"] == "command_failed"}


def test_commands_to_a_driver_that_is_not_replaced_fail(serve, runner) -> None:
    async def body(made: Service) -> None:
        job = await made.submit(max_restarts=0)
        run = RunDirectory((await made.until(job, JobState.RUNNING)).run_dir)
        os.kill(runner.pid(f"{job}-1"), signal.SIGKILL)
        sent = [send(run, CommandKind.SCALE, count=5, by="ada"), send(run, CommandKind.PAUSE, by="ada")]
        await made.until(job, JobState.FAILED)
        assert failed(run) == dict.fromkeys(sent, "the job failed before it carried this out")

    serve(body)


def test_a_command_that_is_sent_while_the_job_is_settled_fails_too(serve, runner, monkeypatch) -> None:
    async def body(made: Service) -> None:
        job = await made.submit()
        run, real, sent = RunDirectory((await made.until(job, JobState.RUNNING)).run_dir), made.store.transition, []

        async def slow(*arguments, **fields):
            sent.append(send(run, CommandKind.SCALE, count=5))
            return await real(*arguments, **fields)

        monkeypatch.setattr(made.store, "transition", slow)
        runner.finish()
        await made.until(job, JobState.SUCCEEDED)
        assert failed(run).keys() == set(sent) != set()

    serve(body)


def test_commands_to_a_driver_that_is_replaced_wait_for_the_next_one(serve, runner) -> None:
    async def body(made: Service) -> None:
        job = await made.submit()
        run = RunDirectory((await made.until(job, JobState.RUNNING)).run_dir)
        os.kill(runner.pid(f"{job}-1"), signal.SIGKILL)
        sent = send(run, CommandKind.SCALE, count=5, by="ada")
        await made.until(job, JobState.RECOVERING)
        assert not failed(run)
        await made.until(job, JobState.RUNNING)
        runner.finish()
        await made.until(job, JobState.SUCCEEDED)
        assert [e["id"] for e in run.events() if e["kind"] == "command"] == [sent]
        assert not failed(run)

    serve(body)


def test_commands_to_a_job_that_is_cancelled_between_its_drivers_fail(serve, runner) -> None:
    async def body(made: Service) -> None:
        job = await made.submit()
        run = RunDirectory((await made.until(job, JobState.RUNNING)).run_dir)
        os.kill(runner.pid(f"{job}-1"), signal.SIGKILL)
        await made.until(job, JobState.RECOVERING)
        sent = send(run, CommandKind.SCALE, count=5, by="ada")
        await made.store.request_cancel(job, "by ann")
        await made.until(job, JobState.CANCELLED)
        assert failed(run) == {sent: "the job was cancelled before it carried this out"}

    serve(body)


def test_a_job_that_writes_no_checkpoints_is_preempted_at_once(serve, runner) -> None:
    async def body(made: Service) -> None:
        (runner.folder / "evaluates").touch()
        low = await made.submit(priority=0)
        await made.until(low, JobState.RUNNING)
        high = await made.submit(priority=5)
        began = time.monotonic()
        await made.until(high, JobState.RUNNING)
        assert time.monotonic() - began < 60
        assert (await made.store.get(low)).state is JobState.QUEUED
        runner.finish()

    serve(body, Limits(running=1), preemption=True)


def test_a_paused_job_is_preempted_without_another_step_and_stays_paused(serve, runner) -> None:
    async def body(made: Service) -> None:
        low = await made.submit(priority=0)
        run = RunDirectory((await made.until(low, JobState.RUNNING)).run_dir)
        send(run, CommandKind.PAUSE, by="ada")
        await made.until(low, JobState.PAUSED)
        high = await made.submit(priority=5)
        await made.until(high, JobState.RUNNING)
        assert [e["command"] for e in run.events() if e["kind"] == "command"] == ["pause", "checkpoint"]
        assert not failed(run)
        runner.finish()

    serve(body, Limits(running=1), preemption=True)


async def test_a_run_that_cannot_be_written_yet_is_settled_later(tmp_path: Path) -> None:
    async with service(tmp_path) as made:
        job, run = await made.running()
        sent, settlement = send(run, CommandKind.PAUSE), Settlement(FileThreads())
        with run.lock():
            await settlement.add(job, JobState.FAILED)
            await settlement.advance()
            assert not failed(run)
        await settlement.advance()
        assert failed(run).keys() == {sent}
        await settlement.advance()
        assert len(failed(run)) == 1
        # A job that is retried meanwhile carries out its commands again.
        late = send(run, CommandKind.PAUSE)
        with run.lock():
            await settlement.add(job, JobState.FAILED)
        await settlement.advance({job.id})
        await settlement.advance()
        assert late not in failed(run)


@pytest.mark.parametrize("settled", [False, True])
async def test_a_job_that_ends_while_a_command_is_sent_answers_409(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settled: bool
) -> None:
    """The supervisor may settle the job before or after the command is written."""
    real, loop = commands._send, asyncio.get_running_loop()
    async with service(tmp_path) as made:
        job, run = await made.running()

        async def end() -> None:
            await made.store.transition(job.id, JobState.RUNNING, JobState.SUCCEEDED)
            await Settlement(FileThreads()).add(job, JobState.SUCCEEDED)

        def slow(*arguments):
            if settled:
                asyncio.run_coroutine_threadsafe(end(), loop).result(20)
            identifier = real(*arguments)
            if not settled:
                asyncio.run_coroutine_threadsafe(end(), loop).result(20)
            return identifier

        monkeypatch.setattr(commands, "_send", slow)
        client = made.client()
        response = await client.patch(f"/v1/jobs/{job.id}/rollout-workers", json={"count": 3})
        assert "succeeded" in check_problem(response, 409)["detail"]
        assert list(failed(run).values()) == ["the job had ended before it carried this out"]


async def test_commands_of_a_job_that_is_cancelled_in_the_queue_fail(tmp_path: Path) -> None:
    """It was preempted, and its driver ended before it read them."""
    async with service(tmp_path) as made:
        job, run = await made.running()
        client = made.client()
        sent = (await client.post(f"/v1/jobs/{job.id}/pause")).json()["id"]
        await made.store.transition(job.id, JobState.RUNNING, JobState.QUEUED)
        assert not failed(run)
        assert (await client.post(f"/v1/jobs/{job.id}/cancel")).json()["state"] == "cancelled"
        assert failed(run) == {sent: "the job was cancelled before it carried this out"}


async def test_a_job_whose_files_hang_can_be_cancelled_in_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()
    monkeypatch.setattr(commands, "settle_run", lambda *_: answered.wait(20))
    async with service(tmp_path, file_seconds=0.2) as made:
        job, _ = await made.running()
        await made.store.transition(job.id, JobState.RUNNING, JobState.QUEUED)
        try:
            async with asyncio.timeout(10):
                response = await made.client().post(f"/v1/jobs/{job.id}/cancel")
        finally:
            answered.set()
        assert response.json()["state"] == "cancelled"


async def test_a_paused_job_can_be_asked_for_a_checkpoint(tmp_path: Path) -> None:
    async with service(tmp_path) as made:
        job, _ = await made.running()
        await made.store.transition(job.id, JobState.RUNNING, JobState.PAUSED)
        assert (await made.client().post(f"/v1/jobs/{job.id}/checkpoint")).status_code == 202
