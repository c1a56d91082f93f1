"""The signals that end a job, under the service and in the foreground alike."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """End the block with KeyboardInterrupt on SIGTERM as on Ctrl-C; handlers and mask are restored after it."""

    def interrupt(*_: object) -> None:
        # Through the handler of SIGINT, so that asyncio cancels the job instead of dying halfway through a step.
        signal.raise_signal(signal.SIGINT)

    # Ray starts its processes with SIGINT blocked, and drivers are descendants of them: it would wait for ever.
    before_mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    # A shell starts background commands with SIGINT ignored; then SIGTERM could not be passed on either.
    before_int = signal.signal(signal.SIGINT, signal.default_int_handler)
    before_term = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before_term)
        signal.signal(signal.SIGINT, before_int)
        signal.pthread_sigmask(signal.SIG_SETMASK, before_mask)
