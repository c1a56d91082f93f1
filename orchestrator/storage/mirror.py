"""Copies a run to its storage while a job writes it: each complete checkpoint, and repeatedly its other files.

Invariants: the job waits for the storage only at its end, and not longer than the deadline. The stored copy is never
ahead of the run directory, and a checkpoint's lines of the growing files are stored before its manifest. A failure is
an event, and is retried.
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
from orchestrator.run.checkpoints import checkpoints_of, kept_steps
from orchestrator.run.copies import all_files, copy_file
from orchestrator.run.directory import RunDirectory
from orchestrator.run.events import EventKind
from orchestrator.storage.location import StorageError
from orchestrator.storage.manifest import Manifest
from orchestrator.storage.stored_run import StoredRun, digest_of_beginning, stored_run
from protocol.back_off import back_off
from protocol.checkpoint import CHECKPOINTS_FOLDER, JOB_FILE, STATE_FOLDER, step_folder

_WORK_SHARE = 0.1
"""Maximum share of the time spent on the growing files, which are stored as a whole each time."""


@dataclass(frozen=True, slots=True)
class MirrorPace:
    """Intervals and deadlines, in seconds."""

    poll: float = 1.0
    """Interval of the checks for a new checkpoint."""
    files: float = 30.0
    """Minimum interval of the checks of the other files."""
    first_back_off: float = 1.0
    """Delay after a failure; doubled after each further one in a row."""
    longest_back_off: float = 60.0
    deadline: float = 600.0
    """For what is left at the end of a job, plus the time that `slowest` allows for its bytes."""
    slowest: float = 1e7
    """Minimum throughput expected of a storage, bytes per second."""
    close: float = 15.0
    """For the last lines, and for a job that is cancelled."""


class Mirror:
    """The mirror of one run, in a thread of its own."""

    def __init__(self, run: RunDirectory, stored: StoredRun, spec: JobSpec, pace: MirrorPace | None = None) -> None:
        self._run, self._stored, self._pace = run, stored, pace or MirrorPace()
        self._checkpoints, self._rule = checkpoints_of(run, spec), spec.checkpoint
        # Next to the checkpoints, to which it has links, and outside backups.
        self._work_folder = run.path / CHECKPOINTS_FOLDER / ".storing"
        self._manifests: dict[int, Manifest] | None = None
        self._incomplete: set[int] = set()
        """Steps with files in the storage that may have no manifest."""
        self._states: dict[int, tuple[int, dict[str, Any], str]] = {}
        """By step: modification time of the job's state in its checkpoint, that state, and its digest."""
        self._stored_at: dict[int, int] = {}
        """By step: modification time of the job's state in the checkpoint that this process stored."""
        self._files: dict[str, tuple[int, int]] = {}
        """By name: size and modification time of the stored file."""
        self._failures, self._problem = 0, "the storage has not answered yet"
        self._changed = threading.Condition()
        self._requested = self._completed = 0
        self._closing = self._abandoned = False
        # A store's client that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run_loop, name="storage", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def flush(self) -> None:
        """Return once all of the run is stored. Raises StorageError if it is not stored by the deadline."""
        seconds = self._pace.deadline + self._bytes_left() / self._pace.slowest
        with self._changed:
            self._requested += 1
            request = self._requested
            self._changed.notify_all()
            if self._changed.wait_for(lambda: self._completed >= request, timeout=seconds):
                return
        raise StorageError(
            f"{self._stored.url}: the run could not be stored within {seconds:.0f} s ({self._problem}); it is "
            f"complete in {self._run.path}: repair the storage, then store it with --resume --run-dir {self._run.path}"
        )

    def close(self) -> None:
        """Store what is left, for a short time at most, and end the thread."""
        with self._changed:
            self._requested += 1
            self._closing = True
            self._changed.notify_all()
        self._thread.join(self._pace.close)
        if self._thread.is_alive():
            with self._changed:
                self._abandoned = True
                self._changed.notify_all()
            self._run.append_event(EventKind.STORAGE_FAILED, cause=f"the end of the run is not stored: {self._problem}")
        else:
            shutil.rmtree(self._work_folder, ignore_errors=True)

    def _run_loop(self) -> None:
        files_due = 0.0
        while True:
            with self._changed:
                request, everything = self._requested, self._requested > self._completed
            everything = everything or time.monotonic() >= files_due
            try:
                self._store_checkpoints()
                began = time.monotonic()
                if everything:
                    self._store_files()
                    took = time.monotonic() - began
                    files_due = began + took + max(self._pace.files, took / _WORK_SHARE)
            # No error of a store's client may end the job. It is recorded, and the job's end waits for the storage.
            except Exception as error:
                pause = self._record_failure(error)
                everything = False
            else:
                pause = self._pace.poll
                self._record_success()
            with self._changed:
                if everything:
                    self._completed = request
                    self._changed.notify_all()
                if self._abandoned or (self._closing and self._completed == self._requested):
                    return
                self._wait(request, pause)

    def _wait(self, request: int, seconds: float) -> None:
        """Wait for a request after this one, for so long at most."""
        self._changed.wait_for(lambda: self._abandoned or self._requested > request, timeout=seconds)

    def _record_failure(self, error: Exception) -> float:
        """Record a failure unless the previous attempt also failed. Returns the delay before the next attempt."""
        self._problem = str(error) if isinstance(error, StorageError) else f"{type(error).__name__}: {error}"
        if not self._failures:
            self._run.append_event(EventKind.STORAGE_FAILED, cause=self._problem[:1000])
        self._failures += 1
        return back_off(self._failures - 1, self._pace.first_back_off, self._pace.longest_back_off)

    def _record_success(self) -> None:
        if self._failures:
            self._run.append_event(EventKind.STORAGE_RECOVERED, failures=self._failures)
        self._failures = 0

    def _store_checkpoints(self) -> None:
        """Store the checkpoints that are kept and not yet stored, and remove those that are no longer kept."""
        local = self._local()
        if self._manifests is None:
            shutil.rmtree(self._work_folder, ignore_errors=True)
            manifests = self._stored.manifests()
            # Left by a crash while a checkpoint was being stored.
            self._incomplete = set(self._stored.started()) - manifests.keys()
            self._manifests = manifests
        rated = {step: manifest.accuracy for step, manifest in self._manifests.items()}
        kept = kept_steps(
            rated | {step: job["accuracy"] for step, job in local.items()},
            keep_last=self._rule.keep_last,
            keep_best=self._rule.keep_best,
        )
        # First the model after the warm start, without which nothing can be resumed; then the newest checkpoint.
        for step in sorted(local, key=lambda step: (step > 0, -step)):
            if step in kept and not self._is_stored(step, self._manifests.get(step)):
                self._store_checkpoint(step, local[step], self._manifests)
        for step in [step for step in self._manifests if step not in kept]:
            self._stored.remove(step)
            del self._manifests[step]
        for step in self._incomplete - {step for step in local if step in kept}:
            self._stored.remove(step)
            self._incomplete.discard(step)

    def _local(self) -> dict[int, dict[str, Any]]:
        """Return the job's state in each complete checkpoint of the run directory."""
        found = {}
        for step in self._checkpoints.steps():
            file = self._checkpoints.folder(step) / STATE_FOLDER / JOB_FILE
            try:
                written = file.stat().st_mtime_ns
                if step not in self._states or self._states[step][0] != written:
                    digest = hashlib.sha256(file.read_bytes()).hexdigest()
                    self._states[step] = (written, self._checkpoints.job(step), digest)
            except FileNotFoundError:  # removed in between
                continue
            found[step] = self._states[step][1]
        return found

    def _is_stored(self, step: int, manifest: Manifest | None) -> bool:
        """Return whether the current checkpoint is stored: a step that was lost and done again has another one."""
        if manifest is None:
            return False
        written, _, digest = self._states[step]
        if step in self._stored_at:
            return self._stored_at[step] == written
        return manifest.files.get(f"{STATE_FOLDER}/{JOB_FILE}", (0, ""))[1] == digest

    def _store_checkpoint(self, step: int, job: dict[str, Any], manifests: dict[int, Manifest]) -> None:
        began, written = time.monotonic(), self._states[step][0]
        folder = self._linked(step)
        if folder is None:
            return
        try:
            # Before the manifest: a checkpoint without its lines of the growing files must not be resumed from.
            self._store_files()
            logs = {name: digest_of_beginning(self._run.path / name, size) for name, size in job["offsets"].items()}
            manifests.pop(step, None)
            self._incomplete.add(step)
            manifest = self._stored.store(step, folder, accuracy=job["accuracy"], logs=logs)
        finally:
            shutil.rmtree(folder)
        manifests[step], self._stored_at[step] = manifest, written
        self._incomplete.discard(step)
        seconds = round(time.monotonic() - began, 3)
        self._run.append_event(EventKind.STORED, step=step, url=self._stored.url, bytes=manifest.bytes, seconds=seconds)

    def _linked(self, step: int) -> Path | None:
        """Link a checkpoint's files under other names, which stay when it is removed; None if it was just removed."""
        folder, to = self._checkpoints.folder(step), self._work_folder / step_folder(step)
        shutil.rmtree(to, ignore_errors=True)
        to.mkdir(parents=True)
        try:
            before = folder.stat().st_ino
            for file, _ in all_files(folder):
                link = to / file.relative_to(folder)
                link.parent.mkdir(parents=True, exist_ok=True)
                os.link(file, link)
            # It is renamed before anything in it is removed: under its name it is complete.
            if folder.stat().st_ino == before:
                return to
        except FileNotFoundError:
            pass
        shutil.rmtree(to)
        return None

    def _store_files(self) -> None:
        """Store the files that have changed, except checkpoints."""
        for file in own_files(self._run.path):
            name = file.relative_to(self._run.path).as_posix()
            copy = self._work_folder / "files" / name
            try:
                stat = file.stat()
                now = stat.st_size, stat.st_mtime_ns
                if self._files.get(name) == now:
                    continue
                # A copy of one moment: the job may write to it.
                copy_file(file, copy)
            except FileNotFoundError:
                continue
            try:
                self._stored.put(copy, name)
            finally:
                copy.unlink()
            self._files[name] = now

    def _bytes_left(self) -> int:
        """Return the size of the newest checkpoint, which may be left to store at the end of a job."""
        latest = self._checkpoints.latest()
        return 0 if latest is None else sum(size for _, size in all_files(self._checkpoints.folder(latest)))


def own_files(run_path: Path) -> Iterator[Path]:
    """Yield the files of a run directory, except checkpoints and files that are being written under another name."""
    for entry in sorted(run_path.iterdir()):
        if entry.name.startswith(".") or entry.name == CHECKPOINTS_FOLDER:
            continue
        if entry.is_file():
            yield entry
        else:
            yield from (file for file, _ in all_files(entry))


@contextmanager
def mirrored(run: RunDirectory, spec: JobSpec) -> Iterator[Callable[[], None]]:
    """Store a run during the block, and what is left at its end, if its job has a storage.

    Yields a function that returns once all of the run is stored, and raises StorageError if it is not by the deadline.
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
