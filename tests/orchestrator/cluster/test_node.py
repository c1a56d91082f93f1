"""`earshot cluster`: the commands for Ray, and the process of a node, with another program instead of Ray."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
from support.cluster.manifests import check_ray_start
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.cluster import node as cluster_node
from orchestrator.cluster import process as cluster_process
from orchestrator.cluster.node import (
    NodeError,
    RayNode,
    check_token,
    head_command,
    make_token,
    own_address,
    sized,
    token_environment,
    worker_command,
)
from orchestrator.cluster.process import StartError

# Prints what Ray prints once it is running, and has a child process that ignores SIGTERM.
RAY = """
import signal, subprocess, sys, time
stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", stubborn])
print("child", child.pid, flush=True)
print("Ray runtime started.", flush=True)
time.sleep(600)
"""


def options(command: list[str]) -> dict[str, str]:
    assert command[:3] == [sys.executable, "-m", "ray.scripts.scripts"]
    return check_ray_start(["ray", *command[3:]])


def test_a_head_listens_on_its_address() -> None:
    given = options(sized(head_command("10.0.0.5", 6379, 8265), 0, None))
    assert given == {
        "--block": "",
        "--disable-usage-stats": "",
        "--head": "",
        "--node-ip-address": "10.0.0.5",
        "--port": "6379",
        "--include-dashboard": "true",
        "--dashboard-host": "10.0.0.5",
        "--dashboard-port": "8265",
        "--num-cpus": "0",
    }


@pytest.mark.parametrize(("head", "address"), [("10.0.0.5", "10.0.0.5:6379"), ("node-1:7000", "node-1:7000")])
def test_a_worker_joins_its_head(head: str, address: str) -> None:
    given = options(sized(worker_command(head), 16, 8))
    assert given["--address"] == address and "--head" not in given
    assert (given["--num-cpus"], given["--num-gpus"]) == ("16", "8")


@pytest.mark.parametrize("head", ["", ":6379", "h:", "h:x", "h:0", "h:70000"])
def test_an_invalid_address_is_refused(head: str) -> None:
    with pytest.raises(NodeError, match="is not the address of a head"):
        worker_command(head)


def test_ray_requires_the_token_and_jobs_see_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("EARSHOT_DATABASE_URL", "postgresql://u:p@h/d")
    monkeypatch.setenv("EARSHOT_TOKEN", "earshot_x")
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere")
    environment = token_environment(tmp_path / "token")
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / "token")
    assert float(environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]) < cluster_node._STOP_SECONDS
    assert not environment.keys() & {"RAY_AUTH_TOKEN", "EARSHOT_DATABASE_URL", "EARSHOT_TOKEN", "RAY_ADDRESS"}


def test_a_token_is_created_once_and_for_its_owner(tmp_path: Path) -> None:
    file = tmp_path / "cluster" / "token"
    make_token(file)
    first = file.read_text()
    assert len(first) == 64 and file.stat().st_mode & 0o777 == 0o600
    make_token(file)
    assert file.read_text() == first
    file.chmod(0o644)
    with pytest.raises(NodeError, match="can be read by others"):
        check_token(file)
    file.chmod(0o600)
    file.write_text("\n")
    with pytest.raises(NodeError, match="is empty"):
        check_token(file)


def test_this_machine_has_an_address() -> None:
    assert own_address().count(".") == 3


@pytest.fixture
def node(tmp_path: Path):
    node = RayNode(tmp_path / "cluster")
    yield node
    node.stop()


def is_alive(pid: int) -> bool:
    """Return whether a process runs. A zombie does not: in a container there may be no parent to reap it."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def start(node: RayNode) -> int:
    """Start the node; returns the pid of its child process."""
    node.start([sys.executable, "-c", RAY], dict(os.environ), "worker", "h:6379")
    return int(node.log.read_text().split()[1])


def test_a_node_ends_with_all_its_descendants(node: RayNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_node, "_STOP_SECONDS", 0.5)
    child = start(node)
    running = node.running()
    assert running is not None and is_alive(child)
    with pytest.raises(NodeError, match="is already a worker of h:6379"):
        node.start([sys.executable, "-c", RAY], dict(os.environ), "worker", "h:6379")
    assert node.stop() == running
    assert node.running() is None and not is_alive(child)
    assert node.stop() is None


def test_a_node_that_died_is_not_running(node: RayNode) -> None:
    child = start(node)
    running = node.running()
    assert running is not None
    os.kill(running.pid, signal.SIGKILL)
    os.kill(child, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while node.running() is not None:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_another_process_with_a_reused_pid_is_not_the_node(node: RayNode, tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    note = {"pid": os.getpid(), "created": 1.0, "role": "head", "address": "h:1"}
    (tmp_path / "cluster" / "node.json").write_text(json.dumps(note))
    assert node.running() is None
    assert node.stop() is None


def test_the_last_line_of_ray_is_in_the_error(node: RayNode) -> None:
    with pytest.raises(StartError, match=r"no such cluster.*see .*ray.log"):
        node.start([sys.executable, "-c", "raise SystemExit('no such cluster')"], dict(os.environ), "worker", "h:1")


def earshot(home: Path, *arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["cluster", *arguments], env={"EARSHOT_DATA": str(home)})
    assert done.exit_code == code, (done.output, done.exception)
    return done.stderr if code else done.stdout


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A data directory, with the program above instead of Ray."""
    monkeypatch.setattr(cluster_node, "ray_start", lambda *options: [sys.executable, "-c", RAY, *options])
    monkeypatch.setattr(cluster_node, "_STOP_SECONDS", 0.5)
    yield tmp_path
    earshot(tmp_path, "down")


def test_up_and_down(home: Path) -> None:
    printed = json.loads(earshot(home, "up", "--host", "10.0.0.5", "--json"))
    token = home / "cluster" / "token"
    assert printed == {
        "role": "head",
        "address": "10.0.0.5:6379",
        "dashboard": "http://10.0.0.5:8265",
        "token_file": str(token),
    }
    assert "already a head of 10.0.0.5:6379" in earshot(home, "up", code=2)
    assert "already" in earshot(home, "join", "10.0.0.6", code=2)
    assert json.loads(earshot(home, "down", "--json"))["ended"]["role"] == "head"
    assert earshot(home, "down") == "No node runs here.\n"


def test_up_prints_the_next_commands_and_no_token(home: Path) -> None:
    printed = earshot(home, "up", "--host", "10.0.0.5")
    token = home / "cluster" / "token"
    assert "earshot cluster join 10.0.0.5:6379 --token-file" in printed
    assert f"RAY_AUTH_TOKEN_PATH={token} earshot serve --ray-address http://10.0.0.5:8265" in printed
    assert token.read_text() not in printed
    assert token.read_text() not in " ".join(psutil.Process(RayNode(home / "cluster").running().pid).cmdline())


def test_join_needs_the_heads_token(home: Path, tmp_path: Path) -> None:
    assert "no token can be read here" in earshot(home, "join", "10.0.0.5", code=2)
    file = tmp_path / "copied"
    make_token(file)
    assert "10.0.0.5:6379" in earshot(home, "join", "10.0.0.5", "--token-file", str(file))
    assert "is not the address" in earshot(home, "join", "10.0.0.5:x", "--token-file", str(file), code=2)


def test_ctrl_c_while_it_starts_leaves_no_node(tmp_path, monkeypatch) -> None:
    node = RayNode(tmp_path)
    silent = RAY.replace('print("Ray runtime started.", flush=True)', "")
    started: list[psutil.Process] = []

    def interrupted(_: float) -> None:
        running = node.running()
        assert running is not None
        process = psutil.Process(running.pid)
        if children := process.children():
            started.extend([process, *children])
            raise KeyboardInterrupt

    monkeypatch.setattr(cluster_process.time, "sleep", interrupted)
    monkeypatch.setattr(cluster_node, "_STOP_SECONDS", 0.5)
    with pytest.raises(KeyboardInterrupt):
        node.start([sys.executable, "-c", silent], dict(os.environ), "head", "10.0.0.5:6379")
    assert len(started) == 2
    assert not psutil.wait_procs(started, timeout=10)[1]
    assert node.running() is None
