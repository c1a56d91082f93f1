"""A real PostgreSQL server for tests, and a small valid job."""

import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.job.spec import JobSpec


def small_spec(**changes: Any) -> JobSpec:
    """Return a valid job; it is never run."""
    value = {"model": {"path": "builtin:tiny-qwen2-audio"}, "data": {"train": "builtin:synthetic"}}
    return JobSpec.model_validate({**value, **changes})


class Postgres:
    """A real PostgreSQL server. It refuses to run as root, so that it runs as its own user then."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._bin = _postgres_binaries()
        self._user = ("runuser", "-u", "postgres", "--") if os.geteuid() == 0 else ()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        if self._user:
            shutil.chown(folder, "postgres")
        self._run("initdb", "-D", folder / "data", "-U", "earshot", "--auth", "trust", "--no-sync", "-E", "UTF8")
        self.start()

    def start(self) -> None:
        """Start the server; return once it accepts connections."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        log = self.folder / "log.txt"
        self._run("pg_ctl", "-D", self.folder / "data", "-o", options, "-l", log, "-w", "-t", "30", "start")

    def stop(self) -> None:
        """Stop the server immediately, breaking all connections."""
        self._run("pg_ctl", "-D", self.folder / "data", "-m", "immediate", "-w", "-t", "30", "stop")

    def freeze(self) -> None:
        """Suspend the server: connections stay open without answers, as in a network that drops everything."""
        for process in self._processes():
            process.suspend()

    def thaw(self) -> None:
        """Resume the server."""
        for process in self._processes():
            process.resume()

    def _processes(self) -> list[psutil.Process]:
        server = psutil.Process(int((self.folder / "data" / "postmaster.pid").read_text().split()[0]))
        return [server, *server.children(recursive=True)]

    def new_database(self) -> str:
        """Create an empty database and return its URL."""
        name = f"t{uuid.uuid4().hex}"
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "earshot", name)
        return f"postgresql://earshot@127.0.0.1:{self.port}/{name}"

    def _run(self, name: str, *arguments: object) -> None:
        command = [*self._user, str(self._bin / name), *map(str, arguments)]
        # A file, because the server would inherit a pipe and keep it open.
        with (self.folder.parent / f"{name}.txt").open("w+") as output:
            done = subprocess.run(command, stdout=output, stderr=output, timeout=60, check=False, cwd="/")
            output.seek(0)
            assert done.returncode == 0, output.read()


def _postgres_binaries() -> Path:
    """Return the folder of initdb and pg_ctl; skip the test if there is none."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not folders:
        pytest.skip("PostgreSQL is not installed here (no initdb): its tests need the real server")
    if os.geteuid() == 0 and subprocess.run(["id", "postgres"], capture_output=True, check=False).returncode:
        pytest.skip("PostgreSQL refuses to run as root, and there is no user postgres to run it as")
    return folders[-1]


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    # Other users cannot read pytest's own folders.
    home = Path("/tmp") / f"earshot-postgres-{uuid.uuid4().hex[:12]}"
    (home / "server").mkdir(parents=True)
    home.chmod(0o755)
    try:
        server = Postgres(home / "server")
        yield server
        server.stop()
    finally:
        shutil.rmtree(home, ignore_errors=True)
