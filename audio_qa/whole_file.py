"""Atomic writes: a file or a folder exists whole or not at all, with the mode of an ordinary new one.

Temporary files and folders of `tempfile`, and the files of some libraries, are for their owner only, whatever the
umask: another user, a web server or another pod could not read them.
"""

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_LONGEST_NAME = 32
"""Characters of a file's own name in that of its temporary file: with four bytes each they fit a name of 255 bytes."""


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Write a temporary file, which replaces `path` when the block ends and is removed if the block raises.

    Several processes may write the same file at once: the last one to finish wins.
    """
    with whole_path(path) as temporary, temporary.open("wb") as file:
        yield file


@contextmanager
def whole_path(path: Path) -> Iterator[Path]:
    """Like `whole_file`, for a library that takes a path: yields that of an empty file, which it may replace."""
    temporary = _beside(path)
    # The only portable way to learn the umask, or the default of the folder, without changing it for other threads.
    temporary.touch(exist_ok=False)
    try:
        mode = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        if stat.S_IMODE(temporary.stat().st_mode) != mode:
            temporary.chmod(mode)
        to_disk(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Fill a temporary folder, which becomes `path` when the block ends and is removed if the block raises.

    Raises OSError if there is a folder with files at `path` by then.
    """
    temporary = _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _beside(path: Path) -> Path:
    return path.absolute().with_name(f".{path.name[:_LONGEST_NAME]}.{secrets.token_hex(8)}.tmp")


def to_disk(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk, so that it survives a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
