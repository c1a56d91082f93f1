"""A job's driver under the service: `python -m orchestrator.driver.main RUN_DIR SUBMISSION_ID`.

It runs the job of a run directory to its end, from its last checkpoint if an earlier driver began it, and says what
came of it by its exit code (`orchestrator.run.exit_codes`). Invariant: two drivers never write one run directory.
"""

import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from orchestrator.cluster.core_share import give_way
from orchestrator.display.progress import Progress, make_progress
from orchestrator.job.spec_file import SpecError, read_spec
from orchestrator.preflight.prepare import BAD_INPUT, prepare
from orchestrator.run import exit_codes as driver_exit
from orchestrator.run.checkpoints import checkpoints_of
from orchestrator.run.commands import CommandKind, send
from orchestrator.run.directory import RunDirectory
from orchestrator.run.events import ATTEMPT, PREEMPTION
from orchestrator.run.records import RunDirectoryError
from orchestrator.storage.location import DamagedError, StorageError
from orchestrator.storage.mirror import mirrored
from orchestrator.storage.restoration import catch_up
from orchestrator.storage.stored_run import stored_run
from orchestrator.training.state import RunState

_LOCK_SECONDS = 60.0
"""An earlier driver that the cluster lost sight of gets this long to end."""
_STORAGE_SECONDS = 60.0
"""A storage is waited for so long before the job begins; it goes on only from what is known to be the newest."""


def main(path: Path, submission_id: str) -> int:
    """The exit code."""
    run = RunDirectory(path)
    try:
        with _lock(run):
            _catch_up(run)
            first = not any(event["kind"] == ATTEMPT for event in run.events())
            run.append_event(ATTEMPT, submission_id=submission_id, pid=os.getpid())
    except (TimeoutError, StorageError) as error:
        print(f"earshot: {error}", file=sys.stderr)
        return driver_exit.FAILED if isinstance(error, DamagedError) else driver_exit.LOST
    except SpecError as error:
        print(f"earshot: {error}", file=sys.stderr)
        return driver_exit.BAD_INPUT
    try:
        with make_progress("plain", sys.stderr) as progress:
            return _run(run, progress, first=first)
    except KeyboardInterrupt:
        return driver_exit.CANCELLED
    except (*BAD_INPUT, RunDirectoryError) as error:
        print(f"earshot: {error}", file=sys.stderr)
        run.append_event("error", error=type(error).__name__, message=str(error)[:4000])
        return driver_exit.BAD_INPUT
    except Exception as error:
        traceback.print_exc()
        return driver_exit.LOST if _is_infrastructure(error) else driver_exit.FAILED


def _run(run: RunDirectory, progress: Progress, *, first: bool) -> int:
    # torch and Ray take seconds to import: what is wrong with the arguments is said before.
    from orchestrator.display.report import write_report  # noqa: PLC0415
    from orchestrator.driver.driver import run_job  # noqa: PLC0415
    from orchestrator.driver.resume import resume  # noqa: PLC0415
    from orchestrator.driver.summary import summarise  # noqa: PLC0415

    started = time.perf_counter()
    spec = read_spec(run.job_file)

    def report(what: str, done: int, total: int) -> None:
        progress.phase(f"{what} {done}/{total}" if total > 1 else what)

    prepared = prepare(spec, report)
    state = RunState()
    if not first:
        last = checkpoints_of(run, spec).latest()
        with run.written():
            state = resume(run, spec, run.job_file.read_text())
            if run.evaluation_file.is_file() or (last is not None and last >= spec.steps):
                # The earlier driver died behind its last checkpoint, or its evaluation: all that is left is to say so,
                # and to store it.
                with mirrored(run, spec) as stored:
                    stored()
                    run.append_event("state", state="succeeded")
                    run.write_summary(summarise(prepared, run, "succeeded", state, time.perf_counter() - started))
                    write_report(run)
                return driver_exit.SUCCEEDED
        _tell_again(run)
    run_job(prepared, run, progress, started, state)
    return driver_exit.SUCCEEDED


def _tell_again(run: RunDirectory) -> None:
    """Have the new driver scale and pause as the earlier one was told."""
    told = [e for e in run.events() if e["kind"] == "command" and e["by"] != PREEMPTION]
    scaled = [event["count"] for event in told if event["command"] == CommandKind.SCALE]
    if scaled:
        send(run, CommandKind.SCALE, count=scaled[-1], by="restart")
    held = [event["command"] for event in told if event["command"] in (CommandKind.PAUSE, CommandKind.RESUME)]
    if held and held[-1] == CommandKind.PAUSE:
        send(run, CommandKind.PAUSE, by="restart")


@contextmanager
def _lock(run: RunDirectory) -> Iterator[None]:
    """`run.written()`, waiting for a driver that is about to end. Raises TimeoutError."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while run.is_written():
        if time.monotonic() > deadline:
            raise TimeoutError(f"another process has been writing {run.path} for {_LOCK_SECONDS:.0f} s")
        time.sleep(0.5)
    with run.written():
        yield


def _catch_up(run: RunDirectory) -> None:
    """Bring the run directory up to what is stored of it: it was lost, or is another node's. Raises StorageError."""
    spec = read_spec(run.job_file)
    stored = stored_run(spec, run.path)
    if stored is None:
        return
    deadline = time.monotonic() + _STORAGE_SECONDS
    while True:
        try:
            catch_up(run, stored, checkpoints_of(run, spec))
            # A storage that takes nothing is found out now and not at the job's end.
            stored.put_job(run.job_file.read_text(encoding="utf-8"))
            return
        except DamagedError:
            raise
        except StorageError:
            if time.monotonic() > deadline:
                raise
        time.sleep(1)


def _is_infrastructure(error: BaseException) -> bool:
    from ray.exceptions import RayError  # noqa: PLC0415

    return isinstance(error, RayError | ConnectionError | StorageError)


def _obey_signals() -> None:
    """SIGTERM, with which Ray stops a job, ends it as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        # Through SIGINT's own handler, so that asyncio cancels the job instead of dying in the middle of it.
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, interrupt)


def start() -> NoReturn:
    """As a program."""
    _obey_signals()
    # Here, not in `main`: whoever calls that has a session of its own to think of.
    give_way()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if len(sys.argv) != 3:
        print("usage: python -m orchestrator.driver.main RUN_DIR SUBMISSION_ID", file=sys.stderr)
        raise SystemExit(driver_exit.BAD_INPUT)
    try:
        raise SystemExit(main(Path(sys.argv[1]), sys.argv[2]))
    except RunDirectoryError as error:
        print(f"earshot: {error}", file=sys.stderr)
        raise SystemExit(driver_exit.BAD_INPUT) from error
    except KeyboardInterrupt as error:
        raise SystemExit(driver_exit.CANCELLED) from error


if __name__ == "__main__":
    start()
