"""What commands that work in the foreground have in common: one line for what goes wrong, an exit code, progress.

Exit codes: 2 bad input, 1 failure, 130 Ctrl-C.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import NoReturn, TypeVar

from orchestrator.preflight.prepare import BAD_INPUT
from orchestrator.run.records import RunDirectoryError
from orchestrator.storage.location import StorageError

Result = TypeVar("Result")


def guarded(action: Callable[[], Result]) -> Result:
    """What `action` returns; bad input ends the command with one line and exit code 2."""
    try:
        return action()
    except (*BAD_INPUT, RunDirectoryError, StorageError) as error:
        fail(str(error), 2)


def failing(action: Callable[[], Result]) -> Result:
    """What `action` returns; Ctrl-C ends the command with exit code 130, anything else with one line and 1."""
    try:
        return action()
    except KeyboardInterrupt:
        fail("interrupted; every process it started has ended", 130)
    except Exception as error:
        if os.environ.get("EARSHOT_TRACEBACK"):
            raise
        fail(f"{type(error).__name__}: {error} (EARSHOT_TRACEBACK=1 shows where)", 1)


@contextmanager
def at_work() -> Iterator[None]:
    """A polite kill ends a job as Ctrl-C does, and stdout is kept for the result: Ray reports deaths there."""

    def interrupt(*_: object) -> None:
        # Through SIGINT's own handler, so that asyncio cancels the job instead of dying in the middle of it.
        signal.raise_signal(signal.SIGINT)

    # A shell starts background commands with SIGINT ignored: it is heard again, or SIGTERM could not pass it on.
    before_int = signal.signal(signal.SIGINT, signal.default_int_handler)
    before_term = signal.signal(signal.SIGTERM, interrupt)
    try:
        with redirect_stdout(sys.stderr):
            yield
    except KeyboardInterrupt:
        fail("interrupted", 130)
    finally:
        signal.signal(signal.SIGTERM, before_term)
        signal.signal(signal.SIGINT, before_int)


def fail(message: str, code: int) -> NoReturn:
    """End the command with one line on stderr."""
    print(f"earshot: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)
