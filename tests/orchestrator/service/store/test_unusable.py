"""Databases that can never be used as they are: one line each, and nothing is changed."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from socket import create_server

import pytest
from sqlalchemy import make_url
from support.postgres import Postgres, small_spec

from audio_qa.errors import InputError
from orchestrator.service.backup.backup import back_up
from orchestrator.service.backup.database_copy import BackupError
from orchestrator.service.server import ServerSettings, serve
from orchestrator.service.store.database import Database, database_url
from orchestrator.service.store.store import (
    DatabaseUnusableError,
    DatabaseUrlError,
    Store,
    StoreUnavailableError,
)

EARSHOT = Path(sys.executable).parent / "earshot"


def url(path: Path) -> str:
    return f"sqlite:///{path}"


async def used(where: str, tmp_path: Path) -> None:
    async with Store(where, tmp_path / "runs") as store:
        await store.submit(small_spec(), owner="ann")


def made(path: Path, jobs: int = 40) -> None:
    async def fill() -> None:
        async with Store(url(path), path.parent / "runs") as store:
            for _ in range(jobs):
                await store.submit(small_spec(), owner="ann")

    path.parent.mkdir(exist_ok=True)
    asyncio.run(fill())


def newer(path: Path) -> None:
    made(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()


def truncated(path: Path) -> None:
    made(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def wrong_pages(path: Path) -> None:
    made(path)
    size = path.stat().st_size
    with path.open("r+b") as file:
        for place in range(4096, size, 4096):
            file.seek(place)
            file.write(b"\x55" * 64)


def other_program(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE jobs (number INTEGER)")
        connection.execute("CREATE TABLE bookmarks (title TEXT)")
        connection.commit()


def without_a_table(path: Path) -> None:
    made(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE audit")
        connection.commit()


KINDS: tuple[tuple[Callable[[Path], object], str], ...] = (
    (newer, "was written by a newer version of Earshot (tables 9999; this version knows 0002): install that version"),
    (lambda path: path.write_text("name: demo\n" * 100), "is damaged or not a database"),
    (truncated, "is damaged"),
    (wrong_pages, "is damaged"),
    (other_program, "is the database of another program (tables: bookmarks, jobs)"),
    (without_a_table, "are incomplete (missing: audit)"),
    (lambda path: path.mkdir(), "is a folder, and not a database"),
    (os.mkfifo, "is not a regular file"),
    # The kernel lets nobody write it, not even root.
    (lambda path: path.symlink_to("/sys/kernel/uevent_seqnum"), "cannot be opened for writing"),
)
NAMES = ("newer", "text", "truncated", "pages", "other", "table", "folder", "pipe", "read_only")


@pytest.mark.parametrize(("make", "words"), KINDS, ids=NAMES)
def test_an_unusable_file_is_refused_at_once_and_left_as_it_was(make, words, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    file = data / "earshot.db"
    make(file)
    for beside in ("-wal", "-shm"):  # what `make` has left is in the file itself
        Path(f"{file}{beside}").unlink(missing_ok=True)
    before = file.read_bytes() if file.is_file() and not file.is_symlink() else None
    began = time.monotonic()
    for attempt in (used(url(file), tmp_path), serve(ServerSettings(data, port=0, ray_address="http://127.0.0.1:1"))):
        with pytest.raises(DatabaseUnusableError) as caught:
            asyncio.run(attempt)
        assert isinstance(caught.value, InputError)
        assert words in str(caught.value) and str(file) in str(caught.value) and "\n" not in str(caught.value)
    assert time.monotonic() - began < 8
    if before is not None:
        assert file.read_bytes() == before
    if file.is_file() and not file.is_symlink() and make is not other_program:
        with pytest.raises((BackupError, DatabaseUnusableError)):
            back_up(data, None, tmp_path / "backup")
        assert not (tmp_path / "backup").exists()


def test_a_backup_of_another_programs_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    other_program(tmp_path / "data" / "earshot.db")
    with pytest.raises(DatabaseUnusableError, match="of another program"):
        back_up(tmp_path / "data", None, tmp_path / "backup")
    (tmp_path / "data" / "earshot.db").unlink()
    (tmp_path / "data" / "earshot.db").touch()
    with pytest.raises(DatabaseUnusableError, match="has no tables"):
        back_up(tmp_path / "data", None, tmp_path / "backup")


def test_the_commands_end_with_one_line(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    newer(data / "earshot.db")
    for command in (
        ("serve", "--port", "0", "--ray-address", "http://127.0.0.1:1"),
        ("token", "list"),
        ("backup", str(tmp_path / "copy")),
    ):
        done = subprocess.run(
            [EARSHOT, *command, "--data-dir", data], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 2, done.stderr
        (line,) = (line for line in done.stderr.splitlines() if not line.startswith("{"))
        assert "newer version of Earshot" in line
    assert not {path.name for path in data.iterdir()} & {"ray", "ray.json", "ray.log", "ray_token"}


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "earshot.db", Path("/proc/nowhere/earshot.db")):
        with pytest.raises(DatabaseUnusableError, match="cannot be opened for writing"):
            asyncio.run(used(url(path), tmp_path))


def test_a_lock_is_waited_for_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.service.store.database.TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr("orchestrator.service.store.database_check.TIMEOUT_SECONDS", 0.3)
    file = tmp_path / "earshot.db"
    made(file)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreUnavailableError, match="another process keeps it locked") as caught:
            asyncio.run(used(url(file), tmp_path))
        assert not isinstance(caught.value, DatabaseUnusableError)
    asyncio.run(used(url(file), tmp_path))


def test_a_full_disk_may_pass(tmp_path: Path) -> None:
    async def body() -> None:
        async with Store(url(tmp_path / "earshot.db"), tmp_path / "runs") as store:
            async with store._database.read() as connection:
                pages = (await connection.exec_driver_sql("PRAGMA page_count")).scalar_one()
                # The limit is one of the connection, which the pool gives to the next transaction.
                await connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
            with pytest.raises(StoreUnavailableError, match="the disk is full") as caught:
                for _ in range(200):
                    await store.submit(small_spec(), owner="ann")
            assert not isinstance(caught.value, DatabaseUnusableError)

    asyncio.run(body())


def test_damage_that_is_met_later_is_an_unavailable_database(tmp_path: Path) -> None:
    async def body() -> None:
        async with Store(url(tmp_path / "earshot.db"), tmp_path / "runs") as store:
            for _ in range(40):
                await store.submit(small_spec(), owner="ann")
            async with store._database.read() as connection:
                await connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
                await connection.exec_driver_sql("PRAGMA cache_size = 0")
            await store._database._engine.dispose()
            wrong_pages_of(tmp_path / "earshot.db")
            with pytest.raises(StoreUnavailableError, match="restore a backup"):
                await store.active()
                await store.list()

    asyncio.run(body())


def wrong_pages_of(file: Path) -> None:
    with file.open("r+b") as open_file:
        for place in range(4096, file.stat().st_size, 4096):
            open_file.seek(place)
            open_file.write(b"\x55" * 64)


@pytest.fixture
def guarded(tmp_path_factory: pytest.TempPathFactory):
    """Return a server that asks for passwords."""
    home = Path("/tmp") / f"earshot-guarded-{os.getpid()}"
    (home / "server").mkdir(parents=True)
    home.chmod(0o755)
    try:
        server = Postgres(home / "server")
        made = make_url(server.new_database())
        hba = home / "server" / "data" / "pg_hba.conf"
        hba.write_text("host all all 127.0.0.1/32 scram-sha-256\n")
        server.stop()
        server.start()
        yield made
        server.stop()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def test_a_wrong_password_is_refused_at_once(guarded, tmp_path: Path) -> None:
    for wrong in (guarded, guarded.set(password="wrong")):
        began = time.monotonic()
        text = wrong.render_as_string(hide_password=False)
        settings = ServerSettings(tmp_path / "data", port=0, database_url=text, ray_address="http://127.0.0.1:1")
        with pytest.raises(DatabaseUnusableError, match="correct user and password") as caught:
            asyncio.run(serve(settings))
        assert time.monotonic() - began < 5
        assert "wrong" not in str(caught.value)


def test_unusable_databases_of_a_server(postgres: Postgres, tmp_path: Path) -> None:
    plain = make_url(postgres.new_database())

    def execute(where, *statements: str) -> None:
        async def run() -> None:
            database = Database(where.render_as_string(hide_password=False))
            async with database.write() as connection:
                for statement in statements:
                    await connection.exec_driver_sql(statement)
            await database.close()

        asyncio.run(run())

    newer, other, closed, readonly = [make_url(postgres.new_database()) for _ in range(4)]
    asyncio.run(used(newer.render_as_string(), tmp_path))
    execute(newer, "UPDATE alembic_version SET version_num = '9999'")
    execute(other, "CREATE TABLE films (title text)")
    role = f"r{closed.database}"
    execute(closed, f"CREATE ROLE {role} LOGIN")
    execute(readonly, f"ALTER DATABASE {readonly.database} SET default_transaction_read_only = on")
    for wrong, words in (
        (plain.set(database="nothere"), "create it, or correct the URL"),
        (plain.set(username="nobody"), "correct user and password"),
        (newer, "written by a newer version of Earshot"),
        (other, "is the database of another program (tables: films)"),
        (closed.set(username=role), "grant the rights, or name another user"),
        (readonly, "name the primary server"),
        (plain.update_query_dict({"sslmode": "require"}), "correct ?ssl="),
    ):
        with pytest.raises(DatabaseUnusableError) as caught:
            asyncio.run(used(wrong.render_as_string(), tmp_path))
        assert words in str(caught.value), caught.value
        assert "\n" not in str(caught.value)


def test_a_server_of_another_kind(tmp_path: Path) -> None:
    with create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(100)
                        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(StoreUnavailableError) as caught:
            asyncio.run(used(f"postgresql://a@127.0.0.1:{listener.getsockname()[1]}/b", tmp_path))
        assert "\n" not in str(caught.value)


def test_an_old_server(monkeypatch: pytest.MonkeyPatch, postgres: Postgres, tmp_path: Path) -> None:
    monkeypatch.setattr("orchestrator.service.store.database_check.OLDEST_POSTGRESQL", (99,))
    with pytest.raises(DatabaseUnusableError, match=r"is on PostgreSQL 1[\d.]+; 99 or later is needed"):
        asyncio.run(used(postgres.new_database(), tmp_path))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("postgresql://h:abc/d", "cannot be read"),
        ("postgresql://h:99999/d", "ports are from"),
        ("postgresql://h/d?sslmode=banana", "ssl='banana'"),
        ("postgresql://h/d?colour=red", "the parameter 'colour'"),
        ("sqlite:////x.db?colour=red", "leave it out"),
    ],
)
def test_urls_that_no_server_could_answer(text: str, words: str) -> None:
    with pytest.raises(DatabaseUrlError, match=words):
        database_url(text)
