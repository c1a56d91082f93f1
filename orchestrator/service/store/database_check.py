"""Tell a database that can never be used as it is from one that cannot be reached now, before anything is changed.

Invariant: a database of a newer version, of another program, damaged or read-only is refused with one line that says
how to mend it, and is left as it was.
"""

import errno
import os
import sqlite3
import ssl
import stat
from functools import partial
from pathlib import Path

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from audio_qa.errors import EarshotError, InputError, cause_of, one_line, shown
from orchestrator.service.store.tables import metadata

TIMEOUT_SECONDS = 10.0
OLDEST_POSTGRESQL = (13,)
_PASSING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.EINTR})
"""Errors of a file system that may pass."""
_READ_ONLY = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_REMEDIES = (
    (("28",), "correct user and password in the URL"),
    (("3D000", "3F000"), "create it, or correct the URL"),
    (("42501",), "grant the rights, or name another user"),
    (("25006",), "name the primary server"),
)
"""Remedies for errors of PostgreSQL that do not pass, by the beginning of their SQLSTATE."""
_REPAIR = "move it away, and restore a backup (earshot restore)"


class StoreUnavailableError(EarshotError):
    """The database cannot be reached; the operation did not happen, or its outcome is unknown."""


class DatabaseUnusableError(StoreUnavailableError, InputError):
    """A database that will not be usable before someone mends it. The message is one line, and says how."""


def config() -> Config:
    """Return Alembic's configuration for the migrations of this version."""
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return made


def check_sqlite(path: Path) -> None:
    """Check the file of an SQLite database, which need not exist; nothing is changed.

    Raises DatabaseUnusableError, or OSError or sqlite3.Error if it cannot be read now.
    """
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise file_refusal(path, error) or error from error
    if not stat.S_ISREG(kind):
        what = "a folder" if stat.S_ISDIR(kind) else "not a regular file"
        raise DatabaseUnusableError(f"{path} is {what}, and not a database; name a file")
    engine = create_engine("sqlite://", creator=partial(_read_only, path), poolclass=NullPool)
    try:
        os.close(os.open(path, os.O_RDWR))
        with engine.connect() as connection:
            found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
            if found != "ok":
                raise DatabaseUnusableError(f"{path} is damaged ({one_line(str(found), 200)}): {_REPAIR}")
            check_tables(connection, str(path))
    except OSError as error:
        raise file_refusal(path, error) or error from error
    except DBAPIError as error:
        cause = error.orig or error
        raise sqlite_refusal(path, cause) or cause from error


def _read_only(path: Path) -> sqlite3.Connection:
    """Connect so that SQLite may end an interrupted transaction, which needs the right to write, but no more."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=TIMEOUT_SECONDS)
    connection.execute("PRAGMA query_only=ON")
    return connection


def check_tables(connection: Connection, where: str = "", *, new: bool = True) -> None:
    """Check that this version can migrate and use the tables of a database, which may be empty if `new`.

    Args:
        where: how messages name the database; by default after its URL.

    Raises DatabaseUnusableError.
    """
    where, names = where or _named(connection.engine.url), set(inspect(connection).get_table_names())
    if connection.dialect.name == "postgresql" and (connection.dialect.server_version_info or ()) < OLDEST_POSTGRESQL:
        version = ".".join(map(str, connection.dialect.server_version_info or ()))
        raise DatabaseUnusableError(
            f"{where} is on PostgreSQL {version}; {OLDEST_POSTGRESQL[0]} or later is needed: upgrade the server"
        )
    heads = MigrationContext.configure(connection).get_current_heads() if "alembic_version" in names else ()
    scripts = ScriptDirectory.from_config(config())
    known = {script.revision for script in scripts.walk_revisions()}
    ours = {"jobs", "transitions", "tokens"} <= names
    if not names - {"alembic_version"} and not heads:
        if not new:
            raise DatabaseUnusableError(f"{where} has no tables: it is not the database of a service")
    elif not ours:
        some = ", ".join(sorted(names)[:3])
        raise DatabaseUnusableError(f"{where} is the database of another program (tables: {some}); name an empty one")
    elif not set(heads) <= known:
        raise DatabaseUnusableError(
            f"{where} was written by a newer version of Earshot (tables {', '.join(sorted(heads))}; this version knows "
            f"{scripts.get_current_head()}): install that version, or restore a backup that this one wrote"
        )
    elif not heads or (set(heads) == {scripts.get_current_head()} and not metadata.tables.keys() <= names):
        missing = ", ".join(sorted(metadata.tables.keys() - names)) or "their version"
        raise DatabaseUnusableError(f"the tables of {where} are incomplete (missing: {missing}): {_REPAIR}")


def file_refusal(path: Path, error: OSError) -> DatabaseUnusableError | None:
    """Return the refusal for an error of the file system; None for one that may pass."""
    if error.errno in _PASSING:
        return None
    reason = (error.strerror or str(error)).lower()
    return DatabaseUnusableError(
        f"the database {path} cannot be opened for writing: {reason}; correct the path or its permissions, or run "
        "this as the user who owns it"
    )


def sqlite_refusal(path: Path | str, error: BaseException) -> DatabaseUnusableError | None:
    """Return the refusal for an error of SQLite; None for one that may pass: a lock, a full disk."""
    code = getattr(error, "sqlite_errorcode", None)
    code = None if code is None else code & 0xFF
    if code in _DAMAGED or (code is None and type(error) is sqlite3.DatabaseError):
        return DatabaseUnusableError(f"{path} is damaged or not a database ({one_line(str(error), 200)}): {_REPAIR}")
    if code in _READ_ONLY:
        return DatabaseUnusableError(
            f"the database {path} cannot be written ({one_line(str(error), 200)}): correct the permissions of the "
            "file, of those beside it and of their folder"
        )
    return None


def refusal(url: URL, error: BaseException) -> DatabaseUnusableError | None:
    """Return the refusal for an error of a connection or a statement; None for one that may pass, or is a bug."""
    cause = getattr(error, "orig", None) or error
    if url.get_backend_name() == "sqlite":
        return sqlite_refusal(url.database or "the database", cause)
    state = (getattr(cause, "sqlstate", None) or "") if isinstance(error, DBAPIError) else ""
    remedy = next((remedy for states, remedy in _REMEDIES if state.startswith(states)), None)
    if isinstance(cause, ssl.SSLError) or (isinstance(cause, ConnectionError) and "SSL" in str(cause)):
        remedy = "correct ?ssl=… in the URL, or its host and port"
    if remedy is None:
        return None
    return DatabaseUnusableError(f"{_named(url)} refuses the service ({one_line(str(cause), 300)}): {remedy}")


def other_server(url: URL, error: BaseException) -> DatabaseUnusableError:
    """Return the refusal for a server that does not behave as PostgreSQL does."""
    return DatabaseUnusableError(f"{_named(url)} cannot be used ({cause_of(error)}): is it a PostgreSQL server?")


def _named(url: URL) -> str:
    """Return a name of the database without its password."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    return f"the database {shown(url.database or '')} on {url.host or 'this machine'}:{url.port or 5432}"
