"""How the command ends when it is told to."""

import os
import signal
import time

import pytest

from orchestrator.foreground import at_work


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
