"""A run as it is stored: `job.yaml`, `inputs.json`, its growing files, and `checkpoints/step-N` with a manifest each.

Invariants: a checkpoint's manifest is stored last and removed first, so a checkpoint with a manifest is complete. A
fetched file equals its entry in the manifest, to the byte, or a DamagedError names the object.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError
from orchestrator.run.copies import Files, all_files, digest_of
from orchestrator.run.files import INPUTS, JOB
from orchestrator.storage import manifest as manifests
from orchestrator.storage.location import DamagedError, Location, check_kind, open_location
from orchestrator.storage.manifest import Manifest
from protocol.checkpoint import CHECKPOINTS_FOLDER, step_folder, step_of

_AT_ONCE = 4
"""Files that are fetched concurrently."""
_BLOCK = 2**22


class StoredRun:
    """One run's folder in a storage. Every method raises StorageError if the store does not answer."""

    def __init__(self, location: Location) -> None:
        self._location = location

    @property
    def url(self) -> str:
        return self._location.url

    def job(self) -> str | None:
        """Return the run's job file; None if no run is stored."""
        text = self._location.read(JOB)
        return None if text is None else text.decode()

    def inputs(self) -> str | None:
        """Return the file with the digests of the job's inputs; None if there is none."""
        text = self._location.read(INPUTS)
        return None if text is None else text.decode()

    def check_new(self) -> None:
        """Raise SpecError if a run is already stored, StorageError unless files can be written here and removed."""
        if self.job() is not None or self._location.names(CHECKPOINTS_FOLDER):
            raise SpecError(
                f"storage: {self.url} already holds a run; name a new run directory, or resume that run: "
                f"--resume --run-dir {self.url}"
            )
        self._location.put_text("", ".writable")
        self._location.remove(".writable")

    def put(self, file: Path, name: str) -> None:
        """Store a file of the run directory under its name in that directory."""
        self._location.put(file, name)

    def put_job(self, text: str) -> None:
        """Store the run's job file."""
        self._location.put_text(text, JOB)

    def manifests(self) -> dict[int, Manifest]:
        """Return the manifests of the complete checkpoints, by step. Raises DamagedError if one cannot be read."""
        found = {}
        for step in self.started():
            name = f"{_folder(step)}/{manifests.NAME}"
            text = self._location.read(name)
            if text is None:
                continue
            try:
                found[step] = manifests.parse(text)
            except ValueError as error:
                raise self._damaged(step, f"{_folder(step)}/{manifests.NAME}", f"cannot be read: {error}") from error
        return found

    def started(self) -> list[int]:
        """Return the steps with a complete or incomplete stored checkpoint, ascending."""
        names = self._location.names(CHECKPOINTS_FOLDER)
        return sorted(step for name in names if (step := step_of(name)) is not None)

    def store(self, step: int, folder: Path, *, accuracy: float | None, logs: Files) -> Manifest:
        """Store the checkpoint in a folder, which must not change until this returns."""
        self.remove(step)
        files: Files = {}
        for file, _ in all_files(folder):
            name = file.relative_to(folder).as_posix()
            files[name] = digest_of(file)
            self._location.put(file, f"{_folder(step)}/{name}")
        manifest = Manifest(step, accuracy, files, logs)
        self._location.put_text(manifest.text(), f"{_folder(step)}/{manifests.NAME}")
        return manifest

    def remove(self, step: int) -> None:
        """Remove a checkpoint, complete or not."""
        self._location.remove(f"{_folder(step)}/{manifests.NAME}")
        self._location.remove(_folder(step))

    def fetch(self, manifest: Manifest, to: Path) -> None:
        """Fetch a checkpoint's files to a folder. Raises DamagedError if one differs from the stored one."""
        fetch_files(self._location, _folder(manifest.step), manifest.files, to)

    def logs(self) -> list[str]:
        """Return the names of the run's growing files."""
        return [name for name in self._location.names() if name.endswith(".jsonl")]

    def fetch_log(self, name: str, to: Path, manifest: Manifest) -> None:
        """Fetch a growing file. Raises DamagedError unless it begins with the lines that belong to the checkpoint."""
        self._location.get(name, to)
        expected = manifest.logs.get(name)
        if expected is not None and digest_of_beginning(to, expected[0]) != expected:
            raise self._damaged(manifest.step, name, f"does not begin with the lines that step {manifest.step} needs")

    def _damaged(self, step: int, name: str, problem: str) -> DamagedError:
        return _damaged(self._location, name, _folder(step), problem)


def stored_run(spec: JobSpec, run_path: Path) -> StoredRun | None:
    """Return where a job stores the run of a directory; None for a job without a storage.

    Raises:
        SpecError: the package for the storage is not installed.
    """
    if spec.storage is None:
        return None
    return StoredRun(open_location(f"{spec.storage}/{run_path.name}"))


def check_storage(spec: JobSpec) -> None:
    """Raise SpecError if the storage's kind of URL is unknown or not installed, without a request to the storage."""
    if spec.storage is not None:
        check_kind(spec.storage)


def fetch_files(location: Location, folder: str, files: Files, to: Path) -> None:
    """Fetch the files of a stored checkpoint's folder. Raises DamagedError for the first that differs."""

    def fetch(name: str) -> None:
        location.get(f"{folder}/{name}", to / name)
        if digest_of(to / name) != files[name]:
            raise _damaged(location, f"{folder}/{name}", folder, "differs from what was stored")

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(fetch, files))


def _damaged(location: Location, name: str, folder: str, problem: str) -> DamagedError:
    return DamagedError(
        f"{location.url_of(name)!r} {problem}; restore it, or remove {location.url_of(folder)} to continue from the "
        "checkpoint before"
    )


def digest_of_beginning(file: Path, size: int) -> tuple[int, str]:
    """Return how many of a file's first `size` bytes exist, and their SHA-256."""
    digest, left = hashlib.sha256(), size
    with file.open("rb") as read:
        while left and (block := read.read(min(left, _BLOCK))):
            digest.update(block)
            left -= len(block)
    return size - left, digest.hexdigest()


def _folder(step: int) -> str:
    return f"{CHECKPOINTS_FOLDER}/{step_folder(step)}"
