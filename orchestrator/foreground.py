"""Jobs in the foreground: how their preparation is shown, and how Ctrl-C and a polite kill end them."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from orchestrator.preflight import Report
from orchestrator.progress import Progress


def examples_folder() -> Path:
    """The examples that come with Earshot: beside the packages in a checkout, inside one when installed."""
    inside = Path(__file__).parent / "examples"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "examples"


def reporter(progress: Progress) -> Report:
    """Show preparation as phases, with how far it is: at the start, every tenth and the end."""
    shown: dict[str, int] = {}

    def report(what: str, done: int, total: int) -> None:
        tenth = done * 10 // max(1, total)
        if shown.get(what) != tenth:
            shown[what] = tenth
            progress.phase(f"{what} {done}/{total}" if total > 1 else what)

    return report


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
        print("earshot: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        signal.signal(signal.SIGTERM, before_term)
        signal.signal(signal.SIGINT, before_int)
