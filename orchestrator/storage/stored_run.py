"""A run as it is stored: `job.yaml`, its growing files, and `checkpoints/step-N` with a manifest each.

Invariants: a checkpoint's manifest comes last when it is stored and goes first when it is removed, so one with a
manifest is whole. What is fetched is what its manifest says, to the byte, or a DamagedError names the object.
"""

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError
from orchestrator.run.copies import Files, all_files, digest_of
from orchestrator.storage import manifest as manifests
from orchestrator.storage.location import DamagedError, Location, check_kind, open_location
from orchestrator.storage.manifest import Manifest

JOB = "job.yaml"
_AT_ONCE = 4
"""Files that are fetched side by side."""
_BLOCK = 2**22


class StoredRun:
    """One run's folder in a storage. Every method raises StorageError where the store does not answer."""

    def __init__(self, location: Location) -> None:
        self._location = location

    @property
    def url(self) -> str:
        return self._location.url

    def job(self) -> str | None:
        """The run's job file; None where no run is stored."""
        text = self._location.read(JOB)
        return None if text is None else text.decode()

    def check_new(self) -> None:
        """Raise SpecError if there is a run already, StorageError unless files can be written here and removed."""
        if self.job() is not None or self._location.names("checkpoints"):
            raise SpecError(
                f"storage: {self.url} holds a run already; name a new run directory, or go on with that run: "
                f"--resume --run-dir {self.url}"
            )
        self._location.put_text("", ".writable")
        self._location.remove(".writable")

    def put(self, file: Path, name: str) -> None:
        """Store a file of the run directory under its name there."""
        self._location.put(file, name)

    def put_job(self, text: str) -> None:
        """Store the run's job file."""
        self._location.put_text(text, JOB)

    def whole(self) -> dict[int, Manifest]:
        """The manifests of the whole checkpoints, by step. Raises DamagedError for one that cannot be read."""
        found = {}
        for step in self.begun():
            name = f"{_folder(step)}/{manifests.NAME}"
            text = self._location.read(name)
            if text is None:
                continue
            try:
                found[step] = manifests.parse(text)
            except ValueError as error:
                raise self._damaged(step, f"{_folder(step)}/{manifests.NAME}", f"cannot be read: {error}") from error
        return found

    def begun(self) -> list[int]:
        """The steps of which anything is stored, whole or not, ascending."""
        names = self._location.names("checkpoints")
        return sorted(int(name.removeprefix("step-")) for name in names if re.fullmatch(r"step-\d+", name))

    def store(self, step: int, folder: Path, *, accuracy: float | None, logs: Files) -> Manifest:
        """Store the checkpoint in a folder in which nothing changes meanwhile."""
        self.remove(step)
        files: Files = {}
        for file, _ in all_files(folder):
            name = file.relative_to(folder).as_posix()
            files[name] = digest_of(file)
            self._location.put(file, f"{_folder(step)}/{name}")
        made = Manifest(step, accuracy, files, logs)
        self._location.put_text(made.text(), f"{_folder(step)}/{manifests.NAME}")
        return made

    def remove(self, step: int) -> None:
        """Remove a checkpoint, or what there is of it."""
        self._location.remove(f"{_folder(step)}/{manifests.NAME}")
        self._location.remove(_folder(step))

    def fetch(self, manifest: Manifest, to: Path) -> None:
        """Fetch a checkpoint's files to a folder. Raises DamagedError for the first that is not what was stored."""
        fetch_files(self._location, _folder(manifest.step), manifest.files, to)

    def growing(self) -> list[str]:
        """The names of the run's files that get a line for each thing that happens."""
        return [name for name in self._location.names() if name.endswith(".jsonl")]

    def fetch_log(self, name: str, to: Path, manifest: Manifest) -> None:
        """Fetch a growing file. Raises DamagedError unless it begins with what the checkpoint counts on."""
        self._location.get(name, to)
        expected = manifest.logs.get(name)
        if expected is not None and digest_of_beginning(to, expected[0]) != expected:
            raise self._damaged(manifest.step, name, f"does not begin with what step {manifest.step} counts on")

    def _damaged(self, step: int, name: str, problem: str) -> DamagedError:
        return _damaged(self._location, name, _folder(step), problem)


def stored_run(spec: JobSpec, run_path: Path) -> StoredRun | None:
    """Where a job stores the run of a directory; None for one without a storage.

    Raises:
        SpecError: what the storage takes is not installed here.
    """
    if spec.storage is None:
        return None
    return StoredRun(open_location(f"{spec.storage}/{run_path.name}"))


def check_storage(spec: JobSpec) -> None:
    """Raise SpecError for a storage whose kind of URL is not known or not installed here; nothing is asked of it."""
    if spec.storage is not None:
        check_kind(spec.storage)


def fetch_files(location: Location, folder: str, files: Files, to: Path) -> None:
    """Fetch the files of a stored checkpoint's folder. Raises DamagedError for the first that is another."""

    def fetch(name: str) -> None:
        location.get(f"{folder}/{name}", to / name)
        if digest_of(to / name) != files[name]:
            raise _damaged(location, f"{folder}/{name}", folder, "is not what was stored")

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(fetch, files))


def _damaged(location: Location, name: str, folder: str, problem: str) -> DamagedError:
    return DamagedError(
        f"{location.url_of(name)!r} {problem}; put it back, or remove {location.url_of(folder)} to go on from the "
        "checkpoint before"
    )


def digest_of_beginning(file: Path, size: int) -> tuple[int, str]:
    """How many of a file's first `size` bytes there are, and their SHA-256."""
    digest, left = hashlib.sha256(), size
    with file.open("rb") as read:
        while left and (block := read.read(min(left, _BLOCK))):
            digest.update(block)
            left -= len(block)
    return size - left, digest.hexdigest()


def _folder(step: int) -> str:
    return f"checkpoints/step-{step}"
