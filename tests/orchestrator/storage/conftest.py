"""The storages of the tests: one in memory, a folder, and an S3 server."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
from support.storage import S3Server, bucket, s3_server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def new_bucket(s3: S3Server) -> str:
    """A new bucket for this test."""
    return bucket(f"runs-{uuid.uuid4()}")


@pytest.fixture(params=["memory", "file", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a storage of each kind."""
    match request.param:
        case "memory":
            memory = fsspec.filesystem("memory")
            memory.store.clear()
            memory.pseudo_dirs[:] = [""]
            return "memory://runs"
        case "file":
            return f"file://{tmp_path}/stored"
        case _:
            return f"{request.getfixturevalue('new_bucket')}/deep/runs"


@pytest.fixture
def spoil() -> Callable[[str, bytes], None]:
    """A function that replaces the stored file at a URL."""

    def replace(url: str, content: bytes) -> None:
        filesystem, path = fsspec.core.url_to_fs(url)
        assert filesystem.exists(path)
        filesystem.pipe_file(path, content)

    return replace
