"""Signals and output of a command that runs a job in the foreground."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from orchestrator.cli.outcome import interrupted
from orchestrator.driver.signals import interrupted_by_signals


@contextmanager
def at_work() -> Iterator[None]:
    """Have SIGTERM end a job as Ctrl-C does, and keep stdout for the result: Ray reports dead processes there."""
    with (
        interrupted("every process it started has ended"),
        interrupted_by_signals(),
        redirect_stdout(sys.stderr),
    ):
        yield
