"""Requests to a job hold while it starts and over the death of its driver: in the real driver, whose pool has simulated
workers."""

import asyncio
from contextlib import nullcontext

import pytest
from ray.exceptions import RayActorError

from orchestrator.display.progress import make_progress
from orchestrator.driver import driver
from orchestrator.driver import main as driver_main
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import dump_spec, read_spec
from orchestrator.preflight.prepare import prepare
from orchestrator.run import exit_codes
from orchestrator.run.commands import CommandKind
from orchestrator.run.directory import RunDirectory
from orchestrator.run.mailbox import send
from orchestrator.training import control as control_module
from rollout_workers.pool.pool import RolloutPool
from rollout_workers.simulated import SimulatedHandle, SimulatedPace


@pytest.fixture
def run(tiny_folder, benchmark_home, tmp_path) -> RunDirectory:
    value = {
        "steps": 2,
        "method": "supervised",
        "model": {"path": str(tiny_folder), "max_context": 256},
        "data": {"train": str(benchmark_home / "train.jsonl")},
        "rollout": {"workers": 2, "max_tokens": 8},
    }
    return RunDirectory.create(tmp_path / "run", dump_spec(JobSpec.model_validate(value)))


class Job:
    """Stands for the learner and the loop: it does what the test says once the workers are up."""

    def __init__(self, prepared, run_dir, state, progress, pool, score, control, room=None):
        self.pool, self.control, self.learner = pool, control, None

    async def run(self, workers):
        await act(self, workers)

    def remove_trial(self):
        """Nothing is tried."""


async def act(job, workers):
    """Replaced by each test."""


@pytest.fixture
def drive(run, monkeypatch):
    """A function that runs a driver whose job does `action(job, workers)`; returns the exit code."""

    def pool(settings, limits, *, on_event, **_):
        return RolloutPool(
            settings, limits, on_event=on_event, make_worker=lambda name: SimulatedHandle(name, SimulatedPace())
        )

    monkeypatch.setattr(driver, "ray_session", lambda spec: nullcontext())
    monkeypatch.setattr(driver, "RolloutPool", pool)
    monkeypatch.setattr(driver, "LearnerSupervisor", Job)
    monkeypatch.setattr(control_module, "_POLL_SECONDS", 0.02)
    attempts = []

    def start(action):
        monkeypatch.setitem(globals(), "act", action)
        attempts.append(action)
        return driver_main.main(run.path, f"j-{len(attempts)}")

    return start


async def serve(job, workers, count):
    """Wait until a number of workers serves and no more come, and check it."""
    await workers
    async with asyncio.timeout(20):
        await job.pool.wait_until_serving(count)
        await asyncio.sleep(0.2)
    assert (job.pool.target, job.pool.alive, len(job.pool)) == (count, count, count)


async def die(job, workers):
    """End as a driver does whose cluster is lost."""
    await workers
    raise RayActorError


def events(run, kind):
    return [event for event in run.events() if event["kind"] == kind]


def requested(count):
    async def action(job, workers):
        await serve(job, workers, count)

    return action


def test_a_number_requested_before_the_driver_reads_commands_is_the_number(run, drive):
    identifier = send(run, CommandKind.SCALE, count=4, by="ada")
    assert drive(requested(4)) == exit_codes.SUCCEEDED
    assert [event["id"] for event in events(run, "command")] == [identifier]
    assert [event["target"] for event in events(run, "scaled")] == [4]


def test_a_number_requested_while_the_workers_start_is_the_number(run, drive):
    async def action(job, workers):
        send(run, CommandKind.SCALE, count=5, by="ada")
        await serve(job, workers, 5)

    assert drive(action) == exit_codes.SUCCEEDED


@pytest.mark.parametrize("before", [None, 1])
def test_a_number_requested_while_there_is_no_driver_is_the_number(run, drive, before):
    """Also after an earlier request, which the next driver takes up first."""
    if before is not None:
        send(run, CommandKind.SCALE, count=before, by="ada")
    assert drive(die) == exit_codes.LOST
    send(run, CommandKind.SCALE, count=4, by="ada")
    assert drive(die) == exit_codes.LOST
    assert drive(requested(4)) == exit_codes.SUCCEEDED
    assert [event["kind"] for event in run.events()].count("command_failed") == 0


def test_no_workers_are_a_number_too(run, drive):
    send(run, CommandKind.SCALE, count=0, by="ada")
    assert drive(die) == exit_codes.LOST
    assert drive(requested(0)) == exit_codes.SUCCEEDED


def test_workers_are_requested_once_for_many_numbers(run, drive):
    sent = [send(run, CommandKind.SCALE, count=i % 7, by="ada") for i in range(300)]
    send(run, CommandKind.SCALE, count=3, by="ada")
    assert drive(requested(3)) == exit_codes.SUCCEEDED
    assert [event["id"] for event in events(run, "command")][:-1] == sent
    assert len(events(run, "worker_left")) == 0


def test_pause_and_checkpoint_hold_for_the_next_driver_and_preemptions_do_not(run, drive):
    saved = []

    async def first(job, workers):
        for kind, by in (("checkpoint", "ada"), ("pause", "ada"), ("checkpoint", "preemption")):
            send(run, CommandKind(kind), by=by)
        async with asyncio.timeout(20):
            while not (job.control.is_paused() and job.control.checkpoint_requested):
                await asyncio.sleep(0.01)
        await die(job, workers)

    async def second(job, workers):
        assert job.control.is_paused()
        saved.extend(job.control.begin_checkpoint())
        send(run, CommandKind.RESUME, by="ada")
        async with asyncio.timeout(20):
            await job.control.wait_while_paused()

    assert drive(first) == exit_codes.LOST
    # The driver that was to give way is gone.
    late = send(run, CommandKind.CHECKPOINT, by="preemption")
    assert drive(second) == exit_codes.SUCCEEDED
    assert saved == [event["id"] for event in events(run, "command") if event["command"] == "checkpoint"][:1]
    assert [event["id"] for event in events(run, "command_failed")] == [late]


def test_a_resume_sent_while_there_is_no_driver_comes_after_the_pause(run, drive):
    send(run, CommandKind.PAUSE, by="ada")
    assert drive(die) == exit_codes.LOST
    send(run, CommandKind.RESUME, by="ada")

    async def action(job, workers):
        assert not job.control.is_paused()

    assert drive(action) == exit_codes.SUCCEEDED


def test_a_job_that_only_evaluates_fails_what_it_cannot_do(run, drive, benchmark_home):
    model = read_spec(run.job_file).model.model_dump(mode="json")
    data = {"evaluation": str(benchmark_home / "heldout.jsonl")}
    spec = {"method": "evaluate", "model": model, "data": data, "rollout": {"workers": 2, "max_tokens": 8}}
    run.write_job(dump_spec(JobSpec.model_validate(spec)))
    sent = [send(run, CommandKind.CHECKPOINT, by="ada"), send(run, CommandKind.SCALE, count=3, by="ada")]
    assert drive(die) == exit_codes.SUCCEEDED
    assert [(event["id"], "evaluates" in event["reason"]) for event in events(run, "command_failed")] == [
        (sent[0], True)
    ]
    assert [event["id"] for event in events(run, "command")] == sent[1:]


def test_a_run_that_is_resumed_by_hand_fails_the_commands_of_its_earlier_process(run, drive, monkeypatch):
    """Also one to cancel it, which would end the new process."""
    sent = [send(run, CommandKind.CANCEL), send(run, CommandKind.SCALE, count=5)]

    async def action(job, workers):
        await serve(job, workers, 2)
        send(run, CommandKind.PAUSE)
        async with asyncio.timeout(20):
            while not events(run, "command"):
                await asyncio.sleep(0.01)
        monkeypatch.setattr(control_module, "_POLL_SECONDS", 60)
        await asyncio.sleep(0.1)
        late.append(send(run, CommandKind.SCALE, count=4))

    late = []
    monkeypatch.setitem(globals(), "act", action)
    driver.run_job(prepare(read_spec(run.job_file), lambda *_: None), run, make_progress("quiet"), 0.0)
    (pause,) = [event["id"] for event in events(run, "command")]
    reasons = {event["id"]: event["reason"] for event in events(run, "command_failed")}
    before, after = (f"the {whose} ended before it carried this out" for whose in ("process that ran the job", "job"))
    assert reasons == {sent[0]: before, sent[1]: before, late[0]: after, pause: after}


def test_commands_wait_while_the_disk_is_full_and_are_carried_out_then(run, drive, monkeypatch):
    append = RunDirectory.append_event

    async def action(job, workers):
        await workers

        def full(*arguments, **fields):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(RunDirectory, "append_event", full)
            sent.append(send(run, CommandKind.PAUSE, by="ada"))
            await asyncio.sleep(0.3)
        async with asyncio.timeout(20):
            while not events(run, "command"):
                await asyncio.sleep(0.01)
        assert job.control.is_paused()

    sent = []
    assert drive(action) == exit_codes.SUCCEEDED
    assert append is RunDirectory.append_event
    assert [event["id"] for event in events(run, "command")] == sent
