"""Copy a run's files while a job may write them, and return the size and digest of each copy."""

import hashlib
import os
import shutil
from pathlib import Path, PurePosixPath

from protocol.checkpoint import CHECKPOINTS_FOLDER

Files = dict[str, tuple[int, str]]
"""Size in bytes and SHA-256 of each file, by name."""
_BLOCK = 2**22


def copy_run(run: Path, to: Path, name: str) -> Files:
    """Copy a run directory. The returned names begin with `name`, which has two parts.

    Checkpoints are copied first: files that grow in the meantime may be ahead of them, which a resumption undoes.
    """
    copied: Files = {}
    to.mkdir(parents=True)
    for checkpoint in sorted((run / CHECKPOINTS_FOLDER).glob("step-*")):
        place = f"{CHECKPOINTS_FOLDER}/{checkpoint.name}"
        try:
            made = _copy_tree(checkpoint, to / place, f"{name}/{place}")
            whole = {file for file, _ in all_files(checkpoint)} == {checkpoint / _below(file, 4) for file in made}
        except FileNotFoundError:
            whole = False
        if whole:
            copied |= made
        else:
            # The job removed it in the meantime: it has newer ones.
            shutil.rmtree(to / place, ignore_errors=True)
    for file, _ in all_files(run):
        inside = file.relative_to(run)
        if inside.parts[0] != CHECKPOINTS_FOLDER:
            try:
                copied[f"{name}/{inside.as_posix()}"] = copy_file(file, to / inside)
            except FileNotFoundError:
                # Written under another name and renamed in the meantime.
                (to / inside).unlink(missing_ok=True)
    return copied


def _below(name: str, levels: int) -> str:
    return str(PurePosixPath(*PurePosixPath(name).parts[levels:]))


def _copy_tree(folder: Path, to: Path, name: str) -> Files:
    return {
        f"{name}/{file.relative_to(folder).as_posix()}": copy_file(file, to / file.relative_to(folder))
        for file, _ in all_files(folder)
    }


def all_files(folder: Path) -> list[tuple[Path, int]]:
    """Return the files below a folder and their sizes, sorted; links to folders are not followed."""
    found = [Path(place) / name for place, _, names in os.walk(folder) for name in names]
    return sorted((file, file.stat().st_size) for file in found if file.is_file())


def copy_file(file: Path, to: Path) -> tuple[int, str]:
    """Copy the bytes that a file has when it is opened; return their number and digest."""
    digest = hashlib.sha256()
    with file.open("rb") as read:
        left = size = os.fstat(read.fileno()).st_size
        to.parent.mkdir(parents=True, exist_ok=True)
        with to.open("wb") as written:
            while left and (block := read.read(min(left, _BLOCK))):
                digest.update(block)
                written.write(block)
                left -= len(block)
    return size - left, digest.hexdigest()


def digest_of(file: Path) -> tuple[int, str]:
    """Return the size and the SHA-256 of a file."""
    with file.open("rb") as read:
        return file.stat().st_size, hashlib.file_digest(read, "sha256").hexdigest()
