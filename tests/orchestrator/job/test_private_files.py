"""The service's own files are closed to jobs under every name that leads to them."""

import os
import socket
from pathlib import Path

import pytest

from audio_qa.errors import shown
from orchestrator.job.roots import OutsideRootsError, Private, Roots

CLOSED = "is the service's own, or another owner's and not yours"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A root in which the service has its data, its database elsewhere, and a job of ours and of another user."""
    for run in ("ours", "theirs"):
        (tmp_path / "service" / "runs" / run).mkdir(parents=True)
        for name in ("samples.jsonl", "job.yaml"):
            (tmp_path / "service" / "runs" / run / name).write_text("x")
    (tmp_path / "service" / "service.lock").write_text("1")
    (tmp_path / "elsewhere.db").write_text("x")
    return tmp_path


def roots_of(home: Path, **more: bool) -> Roots:
    service = home / "service"
    private = Private(
        (str(service), f"{service}/runs", f"{home}/elsewhere.db", f"{home}/elsewhere.db-wal"),
        f"{service}/runs",
        ("job.yaml",),
    )
    return Roots([home], private, lambda run: run == "ours", **more)


@pytest.mark.parametrize("remember", [False, True])
@pytest.mark.parametrize(
    "path",
    [
        "service/service.lock",
        "service/none",
        "service",
        "service/runs",
        "service/runs/ours",
        "service/runs/ours/job.yaml",
        "service/runs/theirs/samples.jsonl",
        "service/runs/theirs/none",
        "service/runs/none/samples.jsonl",
        "service/runs/ours/../theirs/samples.jsonl",
        "service/runs/ours/../../service.lock",
        "elsewhere.db",
        "elsewhere.db-wal",
        "link",
        "folder/theirs/samples.jsonl",
        "hard",
    ],
)
def test_closed_files_are_refused_with_one_message(home: Path, path: str, remember: bool) -> None:
    (home / "link").symlink_to("service/runs/theirs/samples.jsonl")
    (home / "folder").symlink_to("service/runs")
    os.link(home / "elsewhere.db", home / "hard")
    for name in (path, f"../{home.name}/{path}"):
        for found in (roots_of(home, remember=remember).file, roots_of(home, remember=remember).place):
            with pytest.raises(OutsideRootsError, match=CLOSED) as refused:
                found(f"{home}/{name}")
            assert str(refused.value) == f"{shown(f'{home}/{name}')} {CLOSED}"


def test_files_of_own_runs_are_read_also_outside_the_roots(home: Path) -> None:
    roots = roots_of(home)
    own = home / "service" / "runs" / "ours" / "samples.jsonl"
    (home / "mine").symlink_to(own)
    assert roots.file(str(own)) == roots.file(f"{home}/mine") == own
    assert roots.used == {"ours"}
    private = Private((f"{home}/service",), f"{home}/service/runs")
    assert Roots([], private, lambda run: run == "ours").kept(str(own)) == str(own)


@pytest.mark.parametrize("remember", [False, True])
def test_the_data_directory_is_known_by_another_mount(home: Path, remember: bool) -> None:
    """Its folder has the same device and inode there."""
    roots = roots_of(home, remember=remember)
    (home / "service").rename(home / "mounted")
    assert roots.file(f"{home}/mounted/runs/ours/samples.jsonl").is_file()
    for path in ("mounted/runs/theirs/samples.jsonl", "mounted/service.lock", "mounted/none"):
        with pytest.raises(OutsideRootsError, match=CLOSED):
            roots.place(f"{home}/{path}")


@pytest.mark.parametrize("path", ["service/runs/theirs/samples.jsonl", "elsewhere.db", "service/service.lock"])
def test_the_kernels_links_lead_to_the_same_files(home: Path, path: str) -> None:
    with (home / path).open("rb") as file:
        for hidden in (f"/proc/self/root{home}/{path}", f"/proc/self/fd/{file.fileno()}", f"/dev/fd/{file.fileno()}"):
            with pytest.raises(OutsideRootsError, match=CLOSED):
                roots_of(home).file(hidden)


@pytest.mark.parametrize(
    "path", ["/proc/self/environ", "/proc/1/environ", "/dev/zero", "/dev/stdin", "/dev/shm/x", "/sys/kernel/vmcoreinfo"]
)
def test_files_of_the_kernel_are_never_read(path: str) -> None:
    for root in {Path("/"), Path(path).parent} - {Path("/dev/shm")}:
        with pytest.raises(OutsideRootsError, match="is not"):
            Roots([root]).file(path)


def test_a_root_in_shared_memory_is_one(tmp_path: Path) -> None:
    assert Roots([Path("/dev/shm")]).place("/dev/shm/clip.wav") == Path("/dev/shm/clip.wav")


def test_pipes_and_sockets_are_no_files(home: Path) -> None:
    os.mkfifo(home / "pipe")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(home / "socket"))
    with listener:
        for name in ("pipe", "socket"):
            with pytest.raises(OutsideRootsError, match="is not a file under the folders"):
                roots_of(home).file(f"{home}/{name}")
