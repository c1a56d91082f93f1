"""Back up a service's database and run directories into one folder, and restore them.

Invariants: a backup, and a data directory restored from one, is complete or does not exist. The same holds for every
checkpoint in a backup, and the files of its run have at least the lines that it depends on. The service and its jobs
may run during a backup.
"""

import asyncio
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from sqlalchemy import func, select, update

from audio_qa.errors import shown
from orchestrator.places import database_of, runs_of
from orchestrator.run.copies import Files, all_files, copy_file, copy_run, digest_of
from orchestrator.run.records import json_text
from orchestrator.service.backup.database_copy import BackupError, copy_sqlite, dump_postgresql, load_postgresql
from orchestrator.service.store.database import Database, database_url, sqlite_url
from orchestrator.service.store.tables import jobs

_FORMAT = 1
_MANIFEST = "backup.json"
_SQLITE, _POSTGRESQL = "earshot.db", "earshot.pgdump"


@dataclass(frozen=True, slots=True)
class Copied:
    """Result of a backup or a restoration."""

    path: str
    jobs: int
    runs: int
    files: int
    bytes: int


def back_up(data_dir: Path, url: str | None, destination: Path) -> Copied:
    """Copy a service's store and run directories to a new folder.

    Args:
        url: URL of the database; None for the file in the data directory.

    Raises:
        BackupError: `destination` is unchanged.
        DatabaseUrlError, StoreUnavailableError, OSError.
    """
    source = database_url(url or database_of(data_dir))
    sqlite = source.get_backend_name() == "sqlite"
    if sqlite and not Path(source.database or "").is_file():
        raise BackupError(
            f"{source.database}: there is no database here; name the service's data directory with --data-dir"
        )
    if destination.absolute().is_relative_to(data_dir.absolute()):
        raise BackupError(
            f"{destination} is in the data directory itself: name a folder elsewhere, preferably on another disk"
        )
    _check_new(destination)
    _check_room(destination, sum(size for _, size in all_files(runs_of(data_dir))))
    with _complete(destination) as partial:
        name = _SQLITE if sqlite else _POSTGRESQL
        # The database first: a run directory may be ahead of its job's row, as after a crash.
        if sqlite:
            copy_sqlite(Path(source.database or ""), partial / name)
        else:
            dump_postgresql(source, partial / name)
        count = asyncio.run(_count(sqlite_url(partial / name) if sqlite else str(url)))
        files = {name: digest_of(partial / name)}
        runs = 0
        # Names with a dot are not those of runs, but of what is being removed.
        for run in sorted(runs_of(data_dir).glob("[!.]*/")):
            files |= copy_run(run, partial / "runs" / run.name, f"runs/{run.name}")
            runs += 1
        manifest = {
            "format": _FORMAT,
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "runs": str(runs_of(data_dir)),
            "jobs": count,
            "files": files,
        }
        (partial / _MANIFEST).write_text(json_text(manifest, indent=1) + "\n", encoding="utf-8")
    return Copied(str(destination), count, runs, len(files), sum(size for size, _ in files.values()))


def restore(source: Path, data_dir: Path, url: str | None) -> Copied:
    """Restore a backup to a new data directory, and to an empty PostgreSQL database if it has one.

    Args:
        url: URL of the PostgreSQL database; None for SQLite.

    Raises:
        BackupError: the backup is incomplete, or its destination is not empty; nothing was changed.
        DatabaseUrlError, StoreUnavailableError, OSError.
    """
    manifest = _manifest(source)
    files: Files = manifest["files"]
    postgresql = _POSTGRESQL in files
    if postgresql and url is None:
        raise BackupError(f"{source} has a PostgreSQL database: name an empty one with --database-url")
    target = database_url(url or database_of(data_dir))
    if url is not None and (target.get_backend_name() == "postgresql") is not postgresql:
        kind = "PostgreSQL" if postgresql else "SQLite, which goes into the data directory: leave out --database-url"
        raise BackupError(f"the database in {source} is {kind}")
    _check_new(data_dir)
    _check_room(data_dir, sum(size for size, _ in files.values()))
    with _complete(data_dir) as partial:
        for name, (size, digest) in files.items():
            if copy_file(source / name, partial / name) != (size, digest):
                raise BackupError(f"{source / name} is damaged: it differs from what was backed up")
            if name in (_SQLITE, _POSTGRESQL):
                (partial / name).chmod(0o600)
        (partial / "runs").mkdir(exist_ok=True)
        if postgresql:
            load_postgresql(target, partial / _POSTGRESQL)
            (partial / _POSTGRESQL).unlink()
        used = str(url) if postgresql else sqlite_url(partial / _SQLITE)
        count = asyncio.run(_move_runs(used, Path(manifest["runs"]), runs_of(data_dir)))
    runs = {PurePosixPath(name).parts[1] for name in files if name.startswith("runs/")}
    return Copied(str(data_dir), count, len(runs), len(files), sum(size for size, _ in files.values()))


async def _count(url: str) -> int:
    database = Database(url)
    try:
        await database.check()
        async with database.read() as connection:
            return int((await connection.execute(select(func.count()).select_from(jobs))).scalar_one())
    finally:
        await database.close()


async def _move_runs(url: str, before: Path, after: Path) -> int:
    """Migrate the tables and update the jobs' run directories; return the number of jobs."""
    database = Database(url)
    try:
        await database.open()
        async with database.write() as connection:
            found = (await connection.execute(select(jobs.c.seq, jobs.c.run_dir))).all()
            for seq, run_dir in found:
                if Path(run_dir).is_relative_to(before):
                    moved = str(after / Path(run_dir).relative_to(before))
                    await connection.execute(update(jobs).where(jobs.c.seq == seq).values(run_dir=moved))
        return len(found)
    finally:
        await database.close()


def _manifest(source: Path) -> dict[str, Any]:
    """Return the manifest of a backup, after checking that every file exists and has its size."""
    file = source / _MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        files = {str(name): (int(size), str(digest)) for name, (size, digest) in manifest["files"].items()}
        known = manifest["format"] == _FORMAT and isinstance(manifest["runs"], str)
    except FileNotFoundError:
        raise BackupError(f"{source} is not a backup: it has no {_MANIFEST}") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise BackupError(f"{file} cannot be read: {type(error).__name__}") from error
    if not known:
        raise BackupError(f"{file} is from another version of Earshot: restore it with that version")
    for name, (size, _) in files.items():
        parts = PurePosixPath(name).parts
        if parts[0] not in ("runs", _SQLITE, _POSTGRESQL) or ".." in parts or not (source / name).is_file():
            raise BackupError(f"{source} is incomplete: {shown(name)} is missing")
        if (source / name).stat().st_size != size:
            raise BackupError(f"{source} is incomplete: {shown(name)} differs in size from what was backed up")
    if not files.keys() & {_SQLITE, _POSTGRESQL}:
        raise BackupError(f"{source} is incomplete: it has no database")
    return manifest | {"files": files}


def _check_new(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BackupError(f"{folder} exists and is not empty: name a new folder, or move that one away first")


def _check_room(folder: Path, size: int) -> None:
    place = next(parent for parent in folder.absolute().parents if parent.exists())
    free = shutil.disk_usage(place).free
    if free < size:
        raise BackupError(f"{place} has {free / 2**30:.1f} GiB left and {size / 2**30:.1f} GiB are needed")


@contextmanager
def _complete(folder: Path) -> Iterator[Path]:
    """Provide a folder next to `folder`; rename it to `folder` after the block, or remove it if the block raises."""
    partial = folder.absolute().with_name(f".{folder.name}.partial-{os.getpid()}")
    partial.mkdir(mode=0o700, parents=True)
    try:
        yield partial
        os.sync()
        partial.replace(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
