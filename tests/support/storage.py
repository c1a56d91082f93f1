"""A local S3 server, and runs to store on it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
from moto.server import ThreadedMotoServer

from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import dump_spec, parse_spec
from orchestrator.run.checkpoints import Checkpoints
from orchestrator.run.directory import RunDirectory
from orchestrator.storage.location import open_location
from orchestrator.storage.stored_run import StoredRun
from orchestrator.training.state import RunState

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    # Do not look for other credentials.
    "AWS_EC2_METADATA_DISABLED": "true",
}


class S3Server:
    """An S3 server on a port of this machine. Its content stays in this process when it is stopped and restarted."""

    def __init__(self) -> None:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        _, self.port = self._server.get_host_and_port()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self._server.start()


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Start the server, with an environment in which fsspec and our command find it."""
    server = S3Server()
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(CREDENTIALS, AWS_ENDPOINT_URL=server.address)
    fsspec.filesystem("s3").clear_instance_cache()
    try:
        yield server
    finally:
        os.environ.clear()
        os.environ.update(before)
        server.stop()


def bucket(name: str) -> str:
    """Create a bucket and return its URL."""
    fsspec.filesystem("s3").mkdir(name)
    return f"s3://{name}"


def spec_with(storage: str | None, **changes: object) -> JobSpec:
    value = {"model": {"path": "m"}, "data": {"train": "t"}, "steps": 40, "storage": storage, **changes}
    return parse_spec(value, "test")


def new_run(path: Path, spec: JobSpec) -> RunDirectory:
    return RunDirectory.create(path, dump_spec(spec))


def commit(run: RunDirectory, checkpoints: Checkpoints, step: int, accuracy: float | None = None) -> None:
    """Append a metrics line for each step up to `step`, and commit its checkpoint of three files."""
    done = run.metrics()[-1]["step"] if run.metrics() else 0
    for number in range(done + 1, step + 1):
        run.append_metrics({"step": number, "reward/mean": number / 100})
    folder = checkpoints.begin(step)
    (folder / "model.safetensors").write_bytes(b"weights of %d" % step * 1000)
    (folder / "config.json").write_text("{}")
    state = RunState(step=step, accuracy=accuracy, offsets=run.offsets())
    checkpoints.commit(step, state.to_dict())


def stored_at(url: str) -> StoredRun:
    return StoredRun(open_location(url))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
