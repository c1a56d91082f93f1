"""The service's database: SQLite in a file by default, PostgreSQL by URL. Opening it migrates its tables.

Invariant: `write` is one atomic transaction, and on SQLite there is at most one at a time. A database that cannot be
reached is a StoreUnavailableError within `_TIMEOUT_SECONDS`, whatever the driver raises; any other error is a bug.
"""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from audio_qa.errors import EarshotError, InputError

_TIMEOUT_SECONDS = 10.0
_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
# Classes of SQLSTATE: connection, deadlock or serialization, resources, a server that shuts down or starts up.
_AWAY = ("08", "40", "53", "57P")
_UNREACHABLE = (
    OperationalError,
    InterfaceError,
    PoolTimeoutError,
    sqlite3.OperationalError,
    ConnectionError,
    TimeoutError,
    OSError,
)


class StoreUnavailableError(EarshotError):
    """The database cannot be reached; the operation did not happen, or its outcome is unknown."""


class DatabaseUrlError(InputError):
    """A database URL that cannot be used; the message is one line."""


def database_url(text: str) -> URL:
    """Return a URL with an asynchronous driver. Raises DatabaseUrlError unless it is of SQLite or PostgreSQL."""
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise DatabaseUrlError("the database URL cannot be read; write sqlite:///PATH or postgresql://…") from error
    driver = _DRIVERS.get(url.get_backend_name())
    if driver is None:
        raise DatabaseUrlError(f"a {url.get_backend_name()} database is not supported; use sqlite or postgresql")
    return url.set(drivername=driver)


def sqlite_url(file: Path) -> str:
    """Return the URL of an SQLite database in a file."""
    return f"sqlite:///{file.absolute()}"


class Database:
    """Connections to one database, for use on one event loop."""

    def __init__(self, url: str) -> None:
        """Connections are made on first use. Raises DatabaseUrlError."""
        self._url = database_url(url)
        self._engine = _engine(self._url)

    async def open(self) -> None:
        """Create the SQLite file if it is missing, and create or migrate the tables. Raises StoreUnavailableError."""
        if self._url.get_backend_name() == "sqlite" and self._url.database:
            with _unavailable():
                await asyncio.to_thread(_make_file, Path(self._url.database))
        async with self.write() as connection:
            if connection.dialect.name == "postgresql":
                # Concurrent openings take turns, as they do on SQLite.
                await connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7270001)")
            await connection.run_sync(migrate)

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Provide a connection to read from. Raises StoreUnavailableError."""
        with _unavailable():
            async with self._engine.connect() as connection:
                yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Provide a transaction, rolled back if the block raises. Raises StoreUnavailableError."""
        with _unavailable():
            async with self._engine.connect() as connection:
                await connection.execution_options(sqlite_begin="BEGIN IMMEDIATE")
                async with connection.begin():
                    yield connection


def _make_file(path: Path) -> None:
    """Create the file of an SQLite database if it is missing, with a write-ahead log.

    It has the hashes of tokens, and is for its owner only; SQLite makes the files beside it alike.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600, exist_ok=True)
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    with closing(sqlite3.connect(path, timeout=_TIMEOUT_SECONDS)) as connection:
        while True:
            try:
                connection.execute("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError:
                # Of two concurrent creations one gets "database is locked", whatever its timeout.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                return


def migrate(connection: Connection) -> None:
    """Migrate the tables to the current version, in the connection's transaction."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _engine(url: URL) -> AsyncEngine:
    if url.get_backend_name() == "postgresql":
        # A connection that the server has dropped is detected and replaced before use.
        return create_async_engine(
            url,
            pool_pre_ping=True,
            pool_timeout=_TIMEOUT_SECONDS,
            connect_args={"timeout": _TIMEOUT_SECONDS, "command_timeout": _TIMEOUT_SECONDS},
        )
    engine = create_async_engine(url, pool_timeout=_TIMEOUT_SECONDS, connect_args={"timeout": _TIMEOUT_SECONDS})

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


@contextmanager
def _unavailable() -> Iterator[None]:
    """Raise StoreUnavailableError for every kind of unreachable database."""
    try:
        yield
    except _UNREACHABLE as error:
        raise StoreUnavailableError(f"the database cannot be reached: {_first_line(error)}") from error
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None) or ""
        if not error.connection_invalidated and not state.startswith(_AWAY):
            raise
        raise StoreUnavailableError(f"the database cannot be used now: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    return (str(cause).splitlines() or [type(cause).__name__])[0]
