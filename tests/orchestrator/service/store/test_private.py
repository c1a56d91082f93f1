"""The database has the hashes of tokens: only its owner can read it, whichever command creates or opens it."""

import asyncio
import logging
import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from support.postgres import small_spec

from orchestrator.cluster.ray_start import create_token
from orchestrator.service.server import ServerSettings, serve
from orchestrator.service.store.store import DatabaseUnusableError, Store


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def used(file: Path) -> None:
    async with Store(f"sqlite:///{file}", file.parent / "runs") as store:
        await store.submit(small_spec(), owner="ann")
        assert {mode(one) for one in file.parent.iterdir()} == {0o600}  # also those beside it, while it is open


@pytest.mark.parametrize("mask", [0o022, 0o000])
def test_a_database_is_for_its_owner_only(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        asyncio.run(used(tmp_path / "data" / "earshot.db"))
    finally:
        os.umask(before)
    assert mode(tmp_path / "data") == 0o700


def test_a_token_before_the_service(tmp_path: Path) -> None:
    data = tmp_path / "data"
    earshot = Path(sys.executable).parent / "earshot"
    subprocess.run(
        [earshot, "token", "create", "ann", "--data-dir", data], umask=0, capture_output=True, check=True, timeout=60
    )
    assert mode(data) == 0o700
    assert {mode(file) for file in data.iterdir()} == {0o600}


def test_an_open_database_is_closed_to_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "earshot.db"
    with closing(sqlite3.connect(file)) as other:
        asyncio.run(used(file))
        other.execute("SELECT count(*) FROM jobs").fetchone()  # keeps the files beside it
        for one in (file, Path(f"{file}-wal"), Path(f"{file}-shm")):
            one.chmod(0o644)
        caplog.clear()
        asyncio.run(used(file))
    assert sum("now only its owner can" in record.getMessage() for record in caplog.records) == 3


def test_the_token_of_ray_is_closed_to_others(tmp_path: Path) -> None:
    file = tmp_path / "ray_token"
    file.write_text("secret")
    file.chmod(0o644)
    create_token(file)
    assert (mode(file), file.read_text()) == (0o600, "secret")


def test_an_open_data_directory_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o755)
    (data / "earshot.db").mkdir()
    with caplog.at_level(logging.WARNING), pytest.raises(DatabaseUnusableError):
        asyncio.run(serve(ServerSettings(data, port=0, ray_address="http://127.0.0.1:1")))
    assert "chmod 700" in caplog.text
    assert mode(data) == 0o755
