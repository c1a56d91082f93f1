"""The service's database: SQLite in a file by default, PostgreSQL by URL. Opening it migrates its tables.

Invariant: `write` is one atomic transaction, and on SQLite there is at most one at a time. A database that cannot be
reached is a StoreUnavailableError within `TIMEOUT_SECONDS`, whatever the driver raises, and one that has to be mended
first a DatabaseUnusableError; any other error is a bug.
"""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from alembic import command
from sqlalchemy import Connection, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from audio_qa.errors import InputError, shown
from orchestrator.places import keep_private
from orchestrator.service.store.database_check import (
    TIMEOUT_SECONDS,
    DatabaseUnusableError,
    StoreUnavailableError,
    check_sqlite,
    check_tables,
    config,
    file_refusal,
    other_server,
    refusal,
    sqlite_refusal,
)

__all__ = ["Database", "DatabaseUnusableError", "DatabaseUrlError", "StoreUnavailableError"]

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
_WRITERS = {"sqlite": 1, "postgresql": 8}
"""Transactions that write at once. SQLite has one writer; others would wait with a connection each, of 15 at most, and
then nobody could read."""
_PARAMETERS = {"ssl", "host", "passfile", "target_session_attrs", "prepared_statement_cache_size"}
"""Parameters of the URL of PostgreSQL."""
_SSL = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
# Classes of SQLSTATE: connection, deadlock or serialization, resources, a server that shuts down or starts up.
_AWAY = ("08", "40", "53", "57P")
_SAID = {
    sqlite3.SQLITE_BUSY: "another process keeps it locked; end that process",
    sqlite3.SQLITE_FULL: "the disk is full; make room on it",
}
"""Meanings of errors of SQLite, where its own message does not say them."""
_UNREACHABLE = (
    OperationalError,
    InterfaceError,
    PoolTimeoutError,
    sqlite3.OperationalError,
    ConnectionError,
    TimeoutError,
    OSError,
)


class DatabaseUrlError(InputError):
    """A database URL that cannot be used; the message is one line."""


def database_url(text: str) -> URL:
    """Return a URL with an asynchronous driver. Raises DatabaseUrlError unless it is of SQLite or PostgreSQL."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise DatabaseUrlError("the database URL cannot be read; write sqlite:///PATH or postgresql://…") from error
    kind = url.get_backend_name()
    driver = _DRIVERS.get(kind)
    if driver is None:
        raise DatabaseUrlError(f"a {kind} database is not supported; use sqlite or postgresql")
    if url.port is not None and not 0 < url.port < 65536:
        raise DatabaseUrlError(f"the database URL has the port {url.port}; ports are from 1 to 65535")
    query = dict(url.query)
    if kind != "sqlite" and "sslmode" in query:
        # As libpq calls it.
        query.setdefault("ssl", query.pop("sslmode"))
    known = set() if kind == "sqlite" else _PARAMETERS
    if unknown := query.keys() - known:
        correction = f"known are {', '.join(sorted(known))}" if known else "leave it out"
        raise DatabaseUrlError(f"the database URL has the parameter {shown(min(unknown))}; {correction}")
    if query.get("ssl", "prefer") not in _SSL:
        raise DatabaseUrlError(f"the database URL has ssl={shown(query['ssl'])}; write one of {', '.join(_SSL)}")
    return url.set(drivername=driver, query=query)


def sqlite_url(file: Path) -> str:
    """Return the URL of an SQLite database in a file."""
    return f"sqlite:///{file.absolute()}"


class Database:
    """Connections to one database, for use on one event loop."""

    def __init__(self, url: str) -> None:
        """Connections are made on first use. Raises DatabaseUrlError."""
        self._url = database_url(url)
        self._engine = _engine(self._url)
        self._writers = asyncio.Semaphore(_WRITERS[self._url.get_backend_name()])

    async def open(self) -> None:
        """Create the SQLite file if it is missing, and create or migrate the tables.

        Raises StoreUnavailableError; DatabaseUnusableError if that will not pass, and the database was not changed.
        """
        with self._unavailable():
            if self._url.get_backend_name() == "sqlite" and self._url.database:
                await asyncio.to_thread(_make_file, Path(self._url.database))
        try:
            async with self.write() as connection:
                if connection.dialect.name == "postgresql":
                    # Concurrent openings take turns, as they do on SQLite.
                    await connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7270001)")
                await connection.run_sync(migrate)
        except AssertionError as error:  # SQLAlchemy cannot read the version of the server
            raise other_server(self._url, error) from error

    async def check(self) -> None:
        """Check that the database is that of a service; see `open`."""
        async with self.read() as connection:
            await connection.run_sync(partial(check_tables, new=False))

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Provide a connection to read from. Raises StoreUnavailableError."""
        with self._unavailable():
            async with self._engine.connect() as connection:
                yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Provide a transaction, rolled back if the block raises. Raises StoreUnavailableError."""
        with self._unavailable():
            async with self._turn_to_write(), self._engine.connect() as connection:
                await connection.execution_options(sqlite_begin="BEGIN IMMEDIATE")
                async with connection.begin():
                    yield connection

    @asynccontextmanager
    async def _turn_to_write(self) -> AsyncIterator[None]:
        """Wait until few enough write. Raises TimeoutError."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await self._writers.acquire()
        try:
            yield
        finally:
            self._writers.release()

    @contextmanager
    def _unavailable(self) -> Iterator[None]:
        """Raise StoreUnavailableError for every kind of unreachable database."""
        try:
            yield
        except (*_UNREACHABLE, DBAPIError, sqlite3.Error) as error:
            if (refused := refusal(self._url, error)) is not None:
                raise refused from error
            state = getattr(getattr(error, "orig", None), "sqlstate", None) or ""
            passes = isinstance(error, _UNREACHABLE) or getattr(error, "connection_invalidated", False)
            if not passes and not state.startswith(_AWAY):
                raise
            raise StoreUnavailableError(f"the database cannot be used now: {_first_line(error)}") from error


def _make_file(path: Path) -> None:
    """Check the file of an SQLite database, or create it, with a write-ahead log.

    It has the hashes of tokens, and is for its owner only; SQLite makes the files beside it alike.
    """
    check_sqlite(path)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600, exist_ok=True)
    except OSError as error:
        raise file_refusal(path, error) or error from error
    for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        keep_private(file)
    deadline = time.monotonic() + TIMEOUT_SECONDS
    with closing(sqlite3.connect(path, timeout=TIMEOUT_SECONDS)) as connection:
        while True:
            try:
                connection.execute("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError as error:
                # Of two concurrent creations one gets "database is locked", whatever its timeout.
                if time.monotonic() > deadline or sqlite_refusal(path, error) is not None:
                    raise
                time.sleep(0.01)
            else:
                return


def migrate(connection: Connection) -> None:
    """Migrate the tables to the current version, in the connection's transaction. Raises DatabaseUnusableError."""
    check_tables(connection)
    settings = config()
    settings.attributes["connection"] = connection
    command.upgrade(settings, "head")


def _engine(url: URL) -> AsyncEngine:
    if url.get_backend_name() == "postgresql":
        # A connection that the server has dropped is detected and replaced before use.
        return create_async_engine(
            url,
            pool_pre_ping=True,
            pool_timeout=TIMEOUT_SECONDS,
            connect_args={"timeout": TIMEOUT_SECONDS, "command_timeout": TIMEOUT_SECONDS},
        )
    engine = create_async_engine(url, pool_timeout=TIMEOUT_SECONDS, connect_args={"timeout": TIMEOUT_SECONDS})

    @event.listens_for(engine.sync_engine, "connect")
    def _set_up(connection: Any, _: object) -> None:
        # Transactions are started explicitly below: sqlite3 starts them late, and as read transactions.
        connection.isolation_level = None
        cursor = connection.cursor()
        # FULL: acknowledged transactions survive a power failure.
        for pragma in ("synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN"))

    return engine


def _first_line(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    code = getattr(cause, "sqlite_errorcode", None) or 0
    if code & 0xFF in _SAID:
        return _SAID[code & 0xFF]
    return (str(cause).splitlines() or [type(cause).__name__])[0]
