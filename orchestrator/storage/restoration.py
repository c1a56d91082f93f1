"""Brings a stored run to a directory here, where that is lost or behind.

Invariant: a run directory is ahead of what is stored, or is brought up to it; never do two histories of one run mix.
"""

from functools import partial
from pathlib import Path

from orchestrator.job.spec_file import SpecError, dump_spec, read_spec
from orchestrator.run.checkpoints import JOB_FILE, STATE_FOLDER, Checkpoints
from orchestrator.run.copies import digest_of
from orchestrator.run.directory import RunDirectory
from orchestrator.run.records import RunDirectoryError
from orchestrator.storage.location import DamagedError, open_location
from orchestrator.storage.manifest import Manifest
from orchestrator.storage.stored_run import StoredRun

_PART = ".part"


def begin_here(storage: str, path: Path) -> None:
    """Make the directory of a stored run, with its job file alone, unless the run is here already.

    Raises:
        SpecError: no run of this name is stored, or another one is here.
        StorageError: the storage does not answer.
    """
    stored = StoredRun(open_location(f"{storage}/{path.name}"))
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        try:
            kept_at = read_spec(RunDirectory(path).job_file).storage
        except RunDirectoryError as error:
            raise SpecError(f"{path} is where the run would be, and holds something else; move it away") from error
        if kept_at != storage:
            raise SpecError(f"{path} is where the run would be, and holds a run that is not stored there; move it away")
        return
    job = stored.job()
    if job is None:
        raise SpecError(f"storage: there is no run at {stored.url} (no job.yaml); correct the URL")
    run = RunDirectory.create(path, job)
    # The storage may have moved since.
    run.write_job(dump_spec(read_spec(run.job_file).model_copy(update={"storage": storage})))


def newest_stored(stored: StoredRun) -> int | None:
    """The last step with a whole checkpoint in the storage; None where there is none. Raises StorageError."""
    return max(stored.whole(), default=None)


def catch_up(run: RunDirectory, stored: StoredRun, checkpoints: Checkpoints) -> int | None:
    """Fetch what is stored of a run if it is ahead of the directory; the step that it is at then.

    The newest checkpoint comes last: as long as it is not here, the next call begins again.

    Raises:
        DamagedError: what is stored is not what was put there.
        StorageError: the storage does not answer.
    """
    whole = stored.whole()
    newest, here = max(whole, default=None), checkpoints.latest()
    if newest is None or (here is not None and here >= newest):
        return None
    checkpoints.remove_partial()
    for name in stored.growing():
        part = run.path / f".{name}{_PART}"
        try:
            stored.fetch_log(name, part, whole[newest])
            part.replace(run.path / name)
        finally:
            part.unlink(missing_ok=True)
    lost = [name for name in whole[newest].logs if not (run.path / name).is_file()]
    if lost:
        raise DamagedError(f"{stored.url}/{lost[0]} is missing, and step {newest} counts on it; put it back")
    rated = [(manifest.accuracy, step) for step, manifest in whole.items() if manifest.accuracy is not None]
    # The model behind the warm start, which later ones are compared with, and the best one, which the summary names.
    needed = {0, max(rated)[1] if rated else newest} & whole.keys()
    # Steps that were done again elsewhere, behind a checkpoint that was stored: those here are not the run's any more.
    left = [step for step in checkpoints.steps() if not _is_of(checkpoints, step, whole.get(step))]
    for step in left:
        checkpoints.remove(step)
    for step in [*sorted(needed - {newest}), newest]:
        if step not in checkpoints.steps():
            checkpoints.bring(step, partial(stored.fetch, whole[step]))
    run.append_event("fetched", step=newest, url=stored.url, removed=left)
    return newest


def _is_of(checkpoints: Checkpoints, step: int, manifest: Manifest | None) -> bool:
    """Whether a checkpoint that is here is the stored one."""
    state = f"{STATE_FOLDER}/{JOB_FILE}"
    return manifest is not None and manifest.files.get(state) == digest_of(checkpoints.folder(step) / state)
