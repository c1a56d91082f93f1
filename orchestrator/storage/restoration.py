"""Restores a run directory that is lost or out of date from its stored copy.

Invariant: a run directory is ahead of its stored copy, or is brought up to it; two histories of one run never mix.
"""

from functools import partial
from pathlib import Path

from orchestrator.job.spec_file import SpecError, dump_spec, read_spec
from orchestrator.run.checkpoints import Checkpoints
from orchestrator.run.copies import digest_of
from orchestrator.run.directory import RunDirectory
from orchestrator.run.events import EventKind
from orchestrator.run.files import COMMANDS
from orchestrator.run.records import RunDirectoryError, replace_file
from orchestrator.storage.location import DamagedError, open_location
from orchestrator.storage.manifest import Manifest
from orchestrator.storage.stored_run import StoredRun
from protocol.checkpoint import JOB_FILE, STATE_FOLDER

_PART = ".part"


def create_local(storage: str, path: Path) -> None:
    """Create the directory of a stored run, with its job file alone, unless the run is already here.

    Raises:
        SpecError: no run of this name is stored, or another one is here.
        StorageError: the storage does not answer.
    """
    stored = StoredRun(open_location(f"{storage}/{path.name}"))
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        try:
            stored_at = read_spec(RunDirectory(path).job_file).storage
        except RunDirectoryError as error:
            raise SpecError(f"{path} would be the run directory, but holds something else; move it away") from error
        if stored_at != storage:
            raise SpecError(
                f"{path} would be the run directory, but holds a run that is not stored there; move it away"
            )
        return
    job = stored.job()
    if job is None:
        raise SpecError(f"storage: there is no run at {stored.url} (no job.yaml); correct the URL")
    run = RunDirectory.create(path, job)
    _fetch_inputs(run, stored)
    # The storage may have moved since it was stored.
    run.write_job(dump_spec(read_spec(run.job_file).model_copy(update={"storage": storage})))


def _fetch_inputs(run: RunDirectory, stored: StoredRun) -> None:
    """Fetch the digests of the job's inputs, which an earlier version of Earshot did not store."""
    inputs = stored.inputs()
    if inputs is not None:
        replace_file(run.inputs_file, inputs)


def newest_stored(stored: StoredRun) -> int | None:
    """Return the last step with a complete checkpoint in the storage; None if there is none. Raises StorageError."""
    return max(stored.manifests(), default=None)


def catch_up(run: RunDirectory, stored: StoredRun, checkpoints: Checkpoints) -> int | None:
    """Fetch a stored run if it is ahead of the directory. Returns its step; None if nothing was fetched.

    The newest checkpoint is fetched last: until it is complete, the next call starts again.

    Raises:
        DamagedError: a stored file differs from what was put there.
        StorageError: the storage does not answer.
    """
    manifests = stored.manifests()
    newest, here = max(manifests, default=None), checkpoints.latest()
    if newest is None or (here is not None and here >= newest):
        return None
    checkpoints.remove_partial()
    for name in stored.logs():
        part = run.path / f".{name}{_PART}"
        try:
            stored.fetch_log(name, part, manifests[newest])
            if name == COMMANDS:
                _keep_sent(run.path / name, part)
            part.replace(run.path / name)
        finally:
            part.unlink(missing_ok=True)
    _fetch_inputs(run, stored)
    lost = [name for name in manifests[newest].logs if not (run.path / name).is_file()]
    if lost:
        raise DamagedError(f"{stored.url}/{lost[0]} is missing, and step {newest} needs it; restore it")
    rated = [(manifest.accuracy, step) for step, manifest in manifests.items() if manifest.accuracy is not None]
    # The model after the warm start, which is the reference, and the best one, which the summary names.
    needed = {0, max(rated)[1] if rated else newest} & manifests.keys()
    # Steps that were done again elsewhere, after a stored checkpoint: the local ones no longer belong to the run.
    outdated = [step for step in checkpoints.steps() if not _is_stored(checkpoints, step, manifests.get(step))]
    for step in outdated:
        checkpoints.remove(step)
    for step in [*sorted(needed - {newest}), newest]:
        if step not in checkpoints.steps():
            checkpoints.add(step, partial(stored.fetch, manifests[step]))
    run.append_event(EventKind.FETCHED, step=newest, url=stored.url, removed=outdated)
    return newest


def _keep_sent(commands: Path, part: Path) -> None:
    """Append to a fetched command file what was sent to the run here: no process has read it yet."""
    if not commands.exists():
        return
    fetched = part.read_bytes()
    known, sent = set(fetched.split(b"\n")), commands.read_bytes().split(b"\n")
    new = b"".join(line + b"\n" for line in sent if line not in known)
    with part.open("ab") as file:
        file.write((b"\n" if fetched and not fetched.endswith(b"\n") else b"") + new)


def _is_stored(checkpoints: Checkpoints, step: int, manifest: Manifest | None) -> bool:
    """Return whether a local checkpoint is the stored one."""
    state = f"{STATE_FOLDER}/{JOB_FILE}"
    return manifest is not None and manifest.files.get(state) == digest_of(checkpoints.folder(step) / state)
