"""How the command ends when it is told to."""

import os
import signal
import subprocess
import sys
import time

import pytest

from orchestrator.cli.foreground import at_work


@pytest.fixture
def ignoring_sigint():
    """As a shell starts a command with `&` behind it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_both_signals_end_a_command_that_was_started_in_the_background(ignoring_sigint, told):
    with pytest.raises(SystemExit) as ended, at_work():
        os.kill(os.getpid(), told)
        time.sleep(5)
    assert ended.value.code == 130
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_command_with_a_ray_of_its_own_ends_as_it_should():
    """Ray sets signal handlers, and a process that it ends in its own way does not clean up."""
    script = """
import asyncio
from orchestrator.driver import cluster
from orchestrator.foreground import at_work
from orchestrator.spec import JobSpec

async def work():
    try:
        print("at work", flush=True)
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0.1)
        print("cleaned up", flush=True)

spec = {"model": {"path": "builtin:tiny-qwen2-audio"}, "data": {"train": "builtin:synthetic"}}
with at_work(), cluster(JobSpec.model_validate(spec)):
    asyncio.run(work())
"""
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if line == "at work\n":
                    break
            process.terminate()
            said = process.stderr.read()
            assert process.wait(timeout=30) == 130
        finally:
            process.kill()
    assert "cleaned up" in said.splitlines()
    assert said.splitlines()[-1] == "earshot: interrupted"
