"""Copy a database to one file, and back: SQLite with its backup API, PostgreSQL with pg_dump and pg_restore."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

from sqlalchemy import inspect
from sqlalchemy.engine import URL

from audio_qa.errors import InputError
from orchestrator.service.store.database import Database


class BackupError(InputError):
    """A backup that cannot be made or restored; the message is one line."""


def copy_sqlite(source: Path, to: Path) -> None:
    """Copy a consistent snapshot while others write to the source. Raises BackupError for a damaged database."""
    to.touch(mode=0o600)
    try:
        uri = f"{source.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=30)) as read, closing(sqlite3.connect(to)) as written:
            read.backup(written)
            # One file, without a write-ahead log.
            written.execute("PRAGMA journal_mode=DELETE")
            (found,) = written.execute("PRAGMA integrity_check").fetchone()
    except sqlite3.DatabaseError as error:
        raise BackupError(f"{source} cannot be copied: {error}") from error
    if found != "ok":
        raise BackupError(f"{source} is damaged: {found}")


def dump_postgresql(url: URL, to: Path) -> None:
    """Dump a consistent snapshot. Raises BackupError if pg_dump is missing or fails."""
    to.touch(mode=0o600)
    _run("pg_dump", url, "--format=custom", "--no-owner", "--no-privileges", f"--file={to}")


def load_postgresql(url: URL, file: Path) -> None:
    """Load a dump in one transaction. Raises BackupError if the database is not empty or pg_restore fails."""
    tables = asyncio.run(_tables(url))
    if tables:
        raise BackupError(f"the database is not empty (it has {', '.join(tables[:3])}, …): name an empty one")
    _run("pg_restore", url, "--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction", str(file))


async def _tables(url: URL) -> list[str]:
    database = Database(url.render_as_string(hide_password=False))
    try:
        async with database.read() as connection:
            return await connection.run_sync(lambda sync: sorted(inspect(sync).get_table_names()))
    finally:
        await database.close()


def _run(program: str, url: URL, *arguments: str) -> None:
    found = shutil.which(program)
    if found is None:
        raise BackupError(
            f"{program} is not installed here: PostgreSQL is backed up with its own programs, pg_dump and pg_restore"
        )
    # In the environment, because other users of the machine see a command's arguments.
    environment = os.environ | {"PGHOST": url.host or "", "PGPORT": str(url.port or 5432)}
    environment |= {"PGUSER": url.username or "", "PGPASSWORD": url.password or "", "PGDATABASE": url.database or ""}
    if secure := url.query.get("sslmode") or url.query.get("ssl"):
        environment["PGSSLMODE"] = str(secure)
    database = [f"--dbname={url.database}"] if program == "pg_restore" else []
    done = subprocess.run([found, *database, *arguments], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise BackupError(f"{program}: {said[-1]}")
