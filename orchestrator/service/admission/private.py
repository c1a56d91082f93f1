"""The service's own files on its machine."""

from pathlib import Path

from orchestrator.job.roots import Private
from orchestrator.places import DATABASE, cache_directory, runs_of
from orchestrator.run.files import ALLOWED, COMMANDS, DRIVER_LOG, JOB

_SQLITE = ("", "-wal", "-shm", "-journal")
"""Suffixes that SQLite appends to the name of a database for the files beside it."""
_CLOSED_IN_RUNS = (ALLOWED, COMMANDS, DRIVER_LOG, JOB)


def private_files(data_dir: Path | None, database: Path | None = None) -> Private:
    """Return what jobs may not name.

    Args:
        data_dir: data directory of the service; None without one.
        database: file of its SQLite database, if it is elsewhere.
    """
    # The memory of checks has the paths of all clips.
    files = [cache_directory() / "clips" / "checked.sqlite", *([] if database is None else [database])]
    if data_dir is not None:
        files.append(data_dir / DATABASE)
    # By name, since hard links to them would be files under the roots.
    places = [f"{file.absolute()}{ending}" for file in files for ending in _SQLITE]
    if data_dir is None:
        return Private(tuple(places))
    folder = data_dir.absolute()
    # Parts of it may be links to other disks.
    linked = [entry for entry in folder.iterdir() if entry.is_symlink()] if folder.is_dir() else []
    runs = str(runs_of(folder))
    return Private((str(folder), runs, *map(str, linked), *places), runs, _CLOSED_IN_RUNS)
