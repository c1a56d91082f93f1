"""What `earshot run` asks of a storage: whether a run may begin there, where one goes on, and what is left to store."""

from pathlib import Path
from typing import Any

from audio_qa.formats.remote import is_url
from orchestrator.checkpoints import checkpoints_of
from orchestrator.report import write_report
from orchestrator.run_directory import RunDirectory
from orchestrator.spec import JobSpec
from orchestrator.spec_file import SpecError
from orchestrator.storage.mirror import mirrored
from orchestrator.storage.restoration import newest_stored
from orchestrator.storage.stored_run import StoredRun, stored_run
from orchestrator.storage.url import split_run


def place_of(run_dir: str) -> tuple[Path, str | None]:
    """A run's directory here, and the storage that `run_dir` names where it is a URL. Raises SpecError."""
    if not is_url(run_dir):
        return Path(run_dir), None
    try:
        storage, name = split_run(run_dir)
    except ValueError as error:
        raise SpecError(f"--run-dir: {str(error).removeprefix('storage: ')}") from error
    return Path("runs") / name, storage


def check_beginning(spec: JobSpec, path: Path) -> None:
    """Raise SpecError if a run of this name is stored already, StorageError where nothing could be stored."""
    stored = stored_run(spec, path)
    if stored is not None:
        stored.check_new()


def look(run: RunDirectory, old: JobSpec, new: JobSpec) -> tuple[StoredRun | None, int | None]:
    """Where the run of `old` is stored as `new` goes on with it, and the newest step there.

    Raises:
        SpecError: another run has its name there.
        StorageError: the storage does not answer, so nobody knows where the run is to go on.
    """
    stored = stored_run(new, run.path)
    if stored is None:
        return None, None
    if old.storage != new.storage:
        stored.check_new()
    return stored, newest_stored(stored)


def is_left_to_store(run: RunDirectory, spec: JobSpec, newest: int | None) -> bool:
    """Whether all steps are done and only the storage lacks them."""
    done = checkpoints_of(run, spec).latest()
    return spec.storage is not None and done is not None and done >= spec.steps and (newest is None or newest < done)


def store_rest(run: RunDirectory, spec: JobSpec) -> dict[str, Any]:
    """Store a run that has done its steps; its summary. Raises StorageError."""
    with mirrored(run, spec) as store:
        store()
        run.append_event("state", state="succeeded")
        summary = (run.summary() or {}) | {"state": "succeeded", "stored_at": f"{spec.storage}/{run.path.name}"}
        run.write_summary(summary)
        write_report(run)
    return summary
