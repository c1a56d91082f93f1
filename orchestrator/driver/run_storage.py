"""The storage of a run, for commands that start or resume it in the foreground."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from audio_qa.files.remote import is_url
from orchestrator.display.report import write_report
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError
from orchestrator.job.storage_url import split_run
from orchestrator.run.checkpoints import checkpoints_of
from orchestrator.run.directory import RunDirectory
from orchestrator.run.events import EventKind
from orchestrator.schemas.job_state import JobState
from orchestrator.storage.location import StorageError
from orchestrator.storage.mirror import mirrored
from orchestrator.storage.restoration import newest_stored
from orchestrator.storage.stored_run import StoredRun, stored_run


@contextmanager
def storage_checked() -> Iterator[None]:
    """Turn a StorageError into a SpecError: a storage that fails before the job starts is for the user to correct."""
    try:
        yield
    except StorageError as error:
        raise SpecError(str(error)) from error


def parse_run_dir(run_dir: str) -> tuple[Path, str | None]:
    """Return the local directory of a run, and the storage that `run_dir` names if it is a URL. Raises SpecError."""
    if not is_url(run_dir):
        return Path(run_dir), None
    try:
        storage, name = split_run(run_dir)
    except ValueError as error:
        raise SpecError(f"--run-dir: {str(error).removeprefix('storage: ')}") from error
    return Path("runs") / name, storage


def check_not_stored(spec: JobSpec, path: Path) -> None:
    """Raise SpecError if a run of this name is already stored, StorageError if nothing can be stored."""
    stored = stored_run(spec, path)
    if stored is not None:
        stored.check_new()


def find_stored(run: RunDirectory, old: JobSpec, new: JobSpec) -> tuple[StoredRun | None, int | None]:
    """Return where the run of `old` is stored when `new` resumes it, and the newest step there.

    Raises:
        SpecError: another run of this name is stored there.
        StorageError: the storage does not answer, so it is not known from which step the run continues.
    """
    stored = stored_run(new, run.path)
    if stored is None:
        return None, None
    if old.storage != new.storage:
        stored.check_new()
    return stored, newest_stored(stored)


def is_finished_but_unstored(run: RunDirectory, spec: JobSpec, newest: int | None) -> bool:
    """Return whether all steps are done, and only the storage lacks them."""
    done = checkpoints_of(run, spec).latest()
    return spec.storage is not None and done is not None and done >= spec.steps and (newest is None or newest < done)


def store_finished(run: RunDirectory, spec: JobSpec) -> dict[str, Any]:
    """Store a run that has done its steps, and return its summary. Raises StorageError."""
    with mirrored(run, spec) as store:
        store()
        run.append_event(EventKind.STATE, state=JobState.SUCCEEDED)
        summary = (run.summary() or {}) | {"state": JobState.SUCCEEDED, "stored_at": f"{spec.storage}/{run.path.name}"}
        run.write_summary(summary)
        write_report(run)
    return summary
