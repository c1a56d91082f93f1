"""A command that runs a job ends in order on SIGINT and SIGTERM."""

import os
import signal
import subprocess
import sys
import time

import pytest

from orchestrator.cli.foreground import at_work
from orchestrator.cli.outcome import exit_codes


@pytest.fixture
def ignoring_sigint():
    """Ignore SIGINT, as a shell has a command do that it starts with `&`."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def blocking_sigint():
    """Block SIGINT, as Ray does for the processes that it starts and all their descendants."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    yield
    # One that is still pending is dropped.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    signal.signal(signal.SIGINT, handler)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_both_signals_end_a_driver_that_ray_started(blocking_sigint, sent):
    with pytest.raises(SystemExit) as ended, exit_codes(), at_work():
        os.kill(os.getpid(), sent)
        time.sleep(5)
    assert ended.value.code == 130
    assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_both_signals_end_a_command_that_was_started_in_the_background(ignoring_sigint, sent):
    with pytest.raises(SystemExit) as ended, exit_codes(), at_work():
        os.kill(os.getpid(), sent)
        time.sleep(5)
    assert ended.value.code == 130
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_command_with_a_ray_of_its_own_ends_as_it_should():
    """Ray installs signal handlers of its own, which would end the process without clean-up."""
    script = """
import asyncio
from orchestrator.driver.session import ray_session
from orchestrator.cli.foreground import at_work
from orchestrator.cli.outcome import exit_codes
from orchestrator.job.spec import JobSpec

async def work():
    try:
        print("at work", flush=True)
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0.1)
        print("cleaned up", flush=True)

spec = {"model": {"path": "builtin:tiny-qwen2-audio"}, "data": {"train": "builtin:synthetic"}}
with exit_codes(), at_work(), ray_session(JobSpec.model_validate(spec)):
    asyncio.run(work())
"""
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if line == "at work\n":
                    break
            process.terminate()
            stderr = process.stderr.read()
            assert process.wait(timeout=30) == 130
        finally:
            process.kill()
    assert "cleaned up" in stderr.splitlines()
    assert stderr.splitlines()[-1] == "earshot: interrupted; every process it started has ended"
