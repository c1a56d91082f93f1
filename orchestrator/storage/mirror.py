"""Stores a run beside the job that writes it: finished checkpoints whole, its other files again and again.

Invariants: the job never waits for the storage but at its end, and then not longer than the deadline. What is stored is
never ahead of the run directory, and a checkpoint's lines of the growing files are stored before its manifest. What
goes wrong is an event and is tried again.
"""

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.job.spec import JobSpec
from orchestrator.run.checkpoints import JOB_FILE, STATE_FOLDER, checkpoints_of, kept_steps
from orchestrator.run.copies import all_files, copy_file
from orchestrator.run.directory import RunDirectory
from orchestrator.storage.location import StorageError
from orchestrator.storage.manifest import Manifest
from orchestrator.storage.stored_run import StoredRun, digest_of_beginning, stored_run

_WORK_SHARE = 0.1
"""Of the time, at most, that goes into storing growing files again: they are stored whole each time."""


@dataclass(frozen=True, slots=True)
class MirrorPace:
    """How often, and how long; seconds."""

    look: float = 1.0
    """Between looks for a new checkpoint."""
    files: float = 30.0
    """Between looks at the other files, at least."""
    first_back_off: float = 1.0
    """Behind a failure; doubled behind each further one in a row."""
    longest_back_off: float = 60.0
    deadline: float = 600.0
    """For what is left at the end of a job, and `slowest` comes on top."""
    slowest: float = 1e7
    """Bytes a second that a storage takes at least."""
    close: float = 15.0
    """For the very last lines, and for a job that is cancelled."""


class Mirror:
    """Of one run, in a thread."""

    def __init__(self, run: RunDirectory, stored: StoredRun, spec: JobSpec, pace: MirrorPace | None = None) -> None:
        self._run, self._stored, self._pace = run, stored, pace or MirrorPace()
        self._checkpoints, self._rule = checkpoints_of(run, spec), spec.checkpoint
        # Beside the checkpoints, of which these are links, and out of backups.
        self._work_folder = run.path / "checkpoints" / ".storing"
        self._manifests: dict[int, Manifest] | None = None
        self._begun: set[int] = set()
        """Steps of which something may be stored without a manifest."""
        self._seen: dict[int, tuple[int, dict[str, Any], str]] = {}
        """By step: when the job's state in its checkpoint was written, that state, and its digest."""
        self._stored_at: dict[int, int] = {}
        """By step: when the state was written of the checkpoint that this process stored."""
        self._files: dict[str, tuple[int, int]] = {}
        """By name: size and time of what is stored."""
        self._failures, self._problem = 0, "the storage has not answered yet"
        self._changed = threading.Condition()
        self._asked = self._answered = 0
        self._closing = self._abandoned = False
        # A store's client that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="storage", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def flush(self) -> None:
        """Return once all of the run is stored. Raises StorageError if it is not by the deadline."""
        seconds = self._pace.deadline + self._bytes_left() / self._pace.slowest
        with self._changed:
            self._asked += 1
            wanted = self._asked
            self._changed.notify_all()
            if self._changed.wait_for(lambda: self._answered >= wanted, timeout=seconds):
                return
        raise StorageError(
            f"{self._stored.url}: the run could not be stored within {seconds:.0f} s ({self._problem}); it is whole in "
            f"{self._run.path}: mend the storage, then store it by --resume --run-dir {self._run.path}"
        )

    def close(self) -> None:
        """Store what is left, for a short time at most, and end."""
        with self._changed:
            self._asked += 1
            self._closing = True
            self._changed.notify_all()
        self._thread.join(self._pace.close)
        if self._thread.is_alive():
            with self._changed:
                self._abandoned = True
                self._changed.notify_all()
            self._run.append_event("storage_failed", cause=f"the end of the run is not stored: {self._problem}")
        else:
            shutil.rmtree(self._work_folder, ignore_errors=True)

    def _work(self) -> None:
        files_due = 0.0
        while True:
            with self._changed:
                asked, everything = self._asked, self._asked > self._answered
            everything = everything or time.monotonic() >= files_due
            try:
                self._store_checkpoints()
                began = time.monotonic()
                if everything:
                    self._store_files()
                    took = time.monotonic() - began
                    files_due = began + took + max(self._pace.files, took / _WORK_SHARE)
            # Whatever a store's client raises, the job is worth more. It is told, and the end of the job waits for it.
            except Exception as error:
                pause = self._failed(error)
                everything = False
            else:
                pause = self._pace.look
                self._worked()
            with self._changed:
                if everything:
                    self._answered = asked
                    self._changed.notify_all()
                if self._abandoned or (self._closing and self._answered == self._asked):
                    return
                self._wait(asked, pause)

    def _wait(self, asked: int, seconds: float) -> None:
        """Until more is asked for, or for so long."""
        self._changed.wait_for(lambda: self._abandoned or self._asked > asked, timeout=seconds)

    def _failed(self, error: Exception) -> float:
        """Make a failure known, once in a row; how long to wait."""
        self._problem = str(error) if isinstance(error, StorageError) else f"{type(error).__name__}: {error}"
        if not self._failures:
            self._run.append_event("storage_failed", cause=self._problem[:1000])
        self._failures += 1
        return min(self._pace.longest_back_off, self._pace.first_back_off * 2.0 ** min(self._failures - 1, 16))

    def _worked(self) -> None:
        if self._failures:
            self._run.append_event("storage_recovered", failures=self._failures)
        self._failures = 0

    def _store_checkpoints(self) -> None:
        """Store what is kept and not stored yet, and remove what is not kept any more."""
        local = self._local()
        if self._manifests is None:
            shutil.rmtree(self._work_folder, ignore_errors=True)
            whole = self._stored.whole()
            # What a crash in the middle of storing left.
            self._begun = set(self._stored.begun()) - whole.keys()
            self._manifests = whole
        rated = {step: manifest.accuracy for step, manifest in self._manifests.items()}
        kept = kept_steps(
            rated | {step: job["accuracy"] for step, job in local.items()},
            keep_last=self._rule.keep_last,
            keep_best=self._rule.keep_best,
        )
        # Nothing goes on without the model behind the warm start; then what a resumption would take.
        for step in sorted(local, key=lambda step: (step > 0, -step)):
            if step in kept and not self._is_stored(step, self._manifests.get(step)):
                self._store_checkpoint(step, local[step], self._manifests)
        for step in [step for step in self._manifests if step not in kept]:
            self._stored.remove(step)
            del self._manifests[step]
        for step in self._begun - {step for step in local if step in kept}:
            self._stored.remove(step)
            self._begun.discard(step)

    def _local(self) -> dict[int, dict[str, Any]]:
        """The job's state in each whole checkpoint of the run directory."""
        found = {}
        for step in self._checkpoints.steps():
            file = self._checkpoints.folder(step) / STATE_FOLDER / JOB_FILE
            try:
                written = file.stat().st_mtime_ns
                if step not in self._seen or self._seen[step][0] != written:
                    digest = hashlib.sha256(file.read_bytes()).hexdigest()
                    self._seen[step] = (written, self._checkpoints.job(step), digest)
            except FileNotFoundError:  # thrown away meanwhile
                continue
            found[step] = self._seen[step][1]
        return found

    def _is_stored(self, step: int, manifest: Manifest | None) -> bool:
        """Whether it is, as it is now: a step that was lost and done again has another checkpoint."""
        if manifest is None:
            return False
        written, _, digest = self._seen[step]
        if step in self._stored_at:
            return self._stored_at[step] == written
        return manifest.files.get(f"{STATE_FOLDER}/{JOB_FILE}", (0, ""))[1] == digest

    def _store_checkpoint(self, step: int, job: dict[str, Any], manifests: dict[int, Manifest]) -> None:
        began, written = time.monotonic(), self._seen[step][0]
        folder = self._linked(step)
        if folder is None:
            return
        try:
            # Before the manifest: a checkpoint without its lines of the growing files is not to go on from.
            self._store_files()
            logs = {name: digest_of_beginning(self._run.path / name, size) for name, size in job["offsets"].items()}
            manifests.pop(step, None)
            self._begun.add(step)
            made = self._stored.store(step, folder, accuracy=job["accuracy"], logs=logs)
        finally:
            shutil.rmtree(folder)
        manifests[step], self._stored_at[step] = made, written
        self._begun.discard(step)
        seconds = round(time.monotonic() - began, 3)
        self._run.append_event("stored", step=step, url=self._stored.url, bytes=made.bytes, seconds=seconds)

    def _linked(self, step: int) -> Path | None:
        """A checkpoint's files under other names, which stay when it is thrown away; None if it just was."""
        folder, to = self._checkpoints.folder(step), self._work_folder / f"step-{step}"
        shutil.rmtree(to, ignore_errors=True)
        to.mkdir(parents=True)
        try:
            before = folder.stat().st_ino
            for file, _ in all_files(folder):
                link = to / file.relative_to(folder)
                link.parent.mkdir(parents=True, exist_ok=True)
                os.link(file, link)
            # It is renamed before anything in it is removed: under its name it has all its files.
            if folder.stat().st_ino == before:
                return to
        except FileNotFoundError:
            pass
        shutil.rmtree(to)
        return None

    def _store_files(self) -> None:
        """Store the files that have changed, all but checkpoints."""
        for file in own_files(self._run.path):
            name = file.relative_to(self._run.path).as_posix()
            copy = self._work_folder / "files" / name
            try:
                stat = file.stat()
                now = stat.st_size, stat.st_mtime_ns
                if self._files.get(name) == now:
                    continue
                # Of one moment: the job may write it meanwhile.
                copy_file(file, copy)
            except FileNotFoundError:
                continue
            try:
                self._stored.put(copy, name)
            finally:
                copy.unlink()
            self._files[name] = now

    def _bytes_left(self) -> int:
        """Of the newest checkpoint, which is what may be left at the end of a job."""
        latest = self._checkpoints.latest()
        return 0 if latest is None else sum(size for _, size in all_files(self._checkpoints.folder(latest)))


def own_files(run_path: Path) -> Iterator[Path]:
    """The files of a run directory but checkpoints, and what is just being written under another name."""
    for entry in sorted(run_path.iterdir()):
        if entry.name.startswith(".") or entry.name == "checkpoints":
            continue
        if entry.is_file():
            yield entry
        else:
            yield from (file for file, _ in all_files(entry))


@contextmanager
def mirrored(run: RunDirectory, spec: JobSpec) -> Iterator[Callable[[], None]]:
    """Store a run meanwhile, and what is left at the end, if its job has a storage.

    What it gives returns once all of the run is stored, and raises StorageError if it is not by the deadline.
    """
    stored = stored_run(spec, run.path)
    if stored is None:
        yield lambda: None
        return
    mirror = Mirror(run, stored, spec)
    mirror.start()
    try:
        yield mirror.flush
    finally:
        mirror.close()
