"""A job's driver under the service. `__main__` starts it.

It runs the job of a run directory to its end, from its last checkpoint if an earlier driver started it, and reports the
outcome by its exit code (`orchestrator.run.exit_codes`). Invariant: two drivers never write one run directory.
"""

import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ray.exceptions import RayError
from tenacity import Retrying, retry_if_exception_type, retry_if_not_exception_type, stop_after_delay, wait_fixed

from audio_qa.errors import InputError, one_line
from audio_qa.files.guard import Guard
from orchestrator.display.progress import Progress, make_progress, reporter
from orchestrator.display.report import write_report
from orchestrator.driver.driver import run_job
from orchestrator.driver.resume import check_inputs, resume
from orchestrator.driver.session import ClusterUnreachableError
from orchestrator.driver.summary import summarise
from orchestrator.job.allowed import check_names, load
from orchestrator.job.memory.fit import check_memory
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import read_spec
from orchestrator.preflight.plan import model_sizes
from orchestrator.preflight.prepare import prepare
from orchestrator.preflight.room import check_room
from orchestrator.questions.job_paths import check_paths
from orchestrator.run import exit_codes
from orchestrator.run.checkpoints import checkpoints_of
from orchestrator.run.directory import RunDirectory
from orchestrator.run.events import EventKind
from orchestrator.run.files import ALLOWED
from orchestrator.run.history import history_of
from orchestrator.schemas.job_state import JobState
from orchestrator.storage.location import DamagedError, StorageError
from orchestrator.storage.mirror import mirrored
from orchestrator.storage.restoration import catch_up
from orchestrator.storage.stored_run import stored_run
from orchestrator.training.state import RunState

_LOCK_SECONDS = 60.0
"""Time for an earlier driver to end that the cluster has lost track of."""
_STORAGE_SECONDS = 60.0
"""Time to wait for a storage before the job starts, which continues only from what is known to be the newest."""
_NEW_JOB = "submit a new job, whose model.path may name a checkpoint of this run"


def main(path: Path, submission_id: str) -> int:
    """Run the job; returns the exit code."""
    try:
        run = RunDirectory(path)
        with _lock(run):
            _catch_up(run)
            first = history_of(run.events()).attempts == 0
            run.append_event(EventKind.ATTEMPT, submission_id=submission_id, pid=os.getpid())
    except (TimeoutError, StorageError, InputError) as error:
        print(f"earshot: {one_line(str(error))}", file=sys.stderr)
        return exit_codes.NOT_BEGUN if isinstance(error, TimeoutError) else _exit_code(error)
    try:
        with make_progress("plain", sys.stderr) as progress:
            return _run(run, progress, first=first)
    except KeyboardInterrupt:
        return exit_codes.CANCELLED
    except InputError as error:
        print(f"earshot: {one_line(str(error))}", file=sys.stderr)
        run.append_event(EventKind.ERROR, error=type(error).__name__, message=str(error))
        return _exit_code(error)
    except Exception as error:
        traceback.print_exc()
        return _exit_code(error)


def _exit_code(error: Exception) -> int:
    """Return the exit code that tells the service whether another attempt may succeed."""
    if isinstance(error, InputError):
        return exit_codes.BAD_INPUT
    if isinstance(error, ClusterUnreachableError):
        return exit_codes.NOT_BEGUN
    if isinstance(error, RayError | ConnectionError | StorageError) and not isinstance(error, DamagedError):
        return exit_codes.LOST
    return exit_codes.FAILED


def _run(run: RunDirectory, progress: Progress, *, first: bool) -> int:
    started = time.perf_counter()
    spec = read_spec(run.job_file)
    guard = _guard_of(run, spec)
    sizes = model_sizes(spec)
    if first:
        check_memory(spec, sizes)
    check_room(spec, sizes, run.path)
    prepared = prepare(spec, reporter(progress), guard)
    state = RunState()
    if not first:
        last = checkpoints_of(run, spec).latest()
        with run.lock():
            done = run.evaluation_file.is_file() or (last is not None and last >= spec.steps)
            noted = {} if done else check_inputs(run, prepared, _NEW_JOB)
            state = resume(run, spec, run.job_file.read_text(), noted)
            if done:
                # The earlier driver died after its last checkpoint, or its evaluation: all that is left is to store the
                # run and to record that it succeeded.
                with mirrored(run, spec) as store:
                    store()
                    run.append_event(EventKind.STATE, state=JobState.SUCCEEDED)
                    run.write_summary(
                        summarise(prepared, run, JobState.SUCCEEDED, state, time.perf_counter() - started)
                    )
                    write_report(run)
                return exit_codes.SUCCEEDED
    run_job(prepared, run, progress, started, state, restartable=True)
    return exit_codes.SUCCEEDED


def _guard_of(run: RunDirectory, spec: JobSpec) -> Guard | None:
    """Return what decides which files the job may read, once its job file is checked; None without such limits.

    The files that the job names may have changed since the service admitted it. Raises SpecError.
    """
    file = run.path / ALLOWED
    if not file.is_file():
        return None
    allowed = load(file.read_text(encoding="utf-8"), str(file))
    check_names(spec, allowed)
    return check_paths(spec, allowed).place


@contextmanager
def _lock(run: RunDirectory) -> Iterator[None]:
    """Hold the lock of `run.lock()`, after waiting for a driver that is about to end. Raises TimeoutError."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while run.is_locked():
        if time.monotonic() > deadline:
            raise TimeoutError(f"another process has been writing {run.path} for {_LOCK_SECONDS:.0f} s")
        time.sleep(0.5)
    with run.lock():
        yield


def _catch_up(run: RunDirectory) -> None:
    """Bring the run directory up to its stored copy: it was lost, or is another node's. Raises StorageError."""
    spec = read_spec(run.job_file)
    stored = stored_run(spec, run.path)
    if stored is None:
        return
    retrying = Retrying(
        retry=retry_if_exception_type(StorageError) & retry_if_not_exception_type(DamagedError),
        wait=wait_fixed(1),
        stop=stop_after_delay(_STORAGE_SECONDS),
        reraise=True,
    )
    for attempt in retrying:
        with attempt:
            catch_up(run, stored, checkpoints_of(run, spec))
            # A storage that cannot be written is found now and not at the end of the job.
            stored.put_job(run.job_file.read_text(encoding="utf-8"))


def start() -> int:
    """Run the job that the command line names; returns the exit code."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    if len(sys.argv) != 3:
        print("usage: python -m orchestrator.driver RUN_DIR SUBMISSION_ID", file=sys.stderr)
        return exit_codes.BAD_INPUT
    return main(Path(sys.argv[1]), sys.argv[2])
