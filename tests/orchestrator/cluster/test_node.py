"""`earshot cluster`: what Ray would be told, and a node's process to its end, with a program in Ray's place."""

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
from orchestrator.cluster.node import (
    LocalNode,
    NodeError,
    NodeFailedError,
    check_token,
    head_command,
    make_token,
    own_address,
    sized,
    token_environment,
    worker_command,
)

# Says what Ray says once it runs, and has a process of its own, which takes no hint.
RAY = """
import signal, subprocess, sys, time
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", deaf])
print("child", child.pid, flush=True)
print("Ray runtime started.", flush=True)
time.sleep(600)
"""


def options(command: list[str]) -> dict[str, str]:
    assert command[:3] == [sys.executable, "-m", "ray.scripts.scripts"]
    return check_ray_start(["ray", *command[3:]])


def test_a_head_listens_where_it_is_reached() -> None:
    told = options(sized(head_command("10.0.0.5", 6379, 8265), 0, None))
    assert told == {
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
    told = options(sized(worker_command(head), 16, 8))
    assert told["--address"] == address and "--head" not in told
    assert (told["--num-cpus"], told["--num-gpus"]) == ("16", "8")


@pytest.mark.parametrize("head", ["", ":6379", "h:", "h:x", "h:0", "h:70000"])
def test_an_address_that_is_none_is_refused(head: str) -> None:
    with pytest.raises(NodeError, match="is no address of a head"):
        worker_command(head)


def test_ray_asks_for_the_token_and_jobs_see_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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


def test_a_token_is_made_once_and_for_its_owner(tmp_path: Path) -> None:
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
    made = LocalNode(tmp_path / "cluster")
    yield made
    made.stop()


def lives(pid: int) -> bool:
    """Ended is also what nobody has asked for its exit code yet: in a container there may be nobody who does."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def start(node: LocalNode) -> int:
    """The process of the node's child."""
    node.start([sys.executable, "-c", RAY], dict(os.environ), "worker", "h:6379")
    return int(node.log.read_text().split()[1])


def test_a_node_ends_with_all_that_belongs_to_it(node: LocalNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_node, "_STOP_SECONDS", 0.5)
    child = start(node)
    running = node.running()
    assert running is not None and lives(child)
    with pytest.raises(NodeError, match="is a worker of h:6379 already"):
        node.start([sys.executable, "-c", RAY], dict(os.environ), "worker", "h:6379")
    assert node.stop() == running
    assert node.running() is None and not lives(child)
    assert node.stop() is None


def test_a_node_that_died_is_none(node: LocalNode) -> None:
    child = start(node)
    running = node.running()
    assert running is not None
    os.kill(running.pid, signal.SIGKILL)
    os.kill(child, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while node.running() is not None:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_process_that_got_its_number_is_not_it(node: LocalNode, tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    note = {"pid": os.getpid(), "created": 1.0, "role": "head", "address": "h:1"}
    (tmp_path / "cluster" / "node.json").write_text(json.dumps(note))
    assert node.running() is None
    assert node.stop() is None


def test_what_ray_says_is_said(node: LocalNode) -> None:
    with pytest.raises(NodeFailedError, match=r"no such cluster.*ray.log says more"):
        node.start([sys.executable, "-c", "raise SystemExit('no such cluster')"], dict(os.environ), "worker", "h:1")


def earshot(home: Path, *arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["cluster", *arguments], env={"EARSHOT_DATA": str(home)})
    assert done.exit_code == code, (done.output, done.exception)
    return done.stderr if code else done.stdout


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A data directory, with the program above in Ray's place."""
    monkeypatch.setattr(cluster_node, "_ray_start", lambda: [sys.executable, "-c", RAY])
    monkeypatch.setattr(cluster_node, "_STOP_SECONDS", 0.5)
    yield tmp_path
    earshot(tmp_path, "down")


def test_up_and_down(home: Path) -> None:
    said = json.loads(earshot(home, "up", "--host", "10.0.0.5", "--json"))
    token = home / "cluster" / "token"
    assert said == {
        "role": "head",
        "address": "10.0.0.5:6379",
        "dashboard": "http://10.0.0.5:8265",
        "token_file": str(token),
    }
    assert "a head of 10.0.0.5:6379 already" in earshot(home, "up", code=2)
    assert "already" in earshot(home, "join", "10.0.0.6", code=2)
    assert json.loads(earshot(home, "down", "--json"))["ended"]["role"] == "head"
    assert earshot(home, "down") == "No node runs here.\n"


def test_up_tells_what_is_next_and_shows_no_token(home: Path) -> None:
    said = earshot(home, "up", "--host", "10.0.0.5")
    token = home / "cluster" / "token"
    assert "earshot cluster join 10.0.0.5:6379 --token-file" in said
    assert f"RAY_AUTH_TOKEN_PATH={token} earshot serve --ray-address http://10.0.0.5:8265" in said
    assert token.read_text() not in said
    assert token.read_text() not in " ".join(psutil.Process(LocalNode(home / "cluster").running().pid).cmdline())


def test_join_needs_the_heads_token(home: Path, tmp_path: Path) -> None:
    assert "no token can be read here" in earshot(home, "join", "10.0.0.5", code=2)
    file = tmp_path / "copied"
    make_token(file)
    assert "10.0.0.5:6379" in earshot(home, "join", "10.0.0.5", "--token-file", str(file))
    assert "is no address" in earshot(home, "join", "10.0.0.5:x", "--token-file", str(file), code=2)


def test_ctrl_c_while_it_starts_leaves_no_node(tmp_path, monkeypatch) -> None:
    node = LocalNode(tmp_path)
    silent = RAY.replace('print("Ray runtime started.", flush=True)', "")
    seen: list[psutil.Process] = []

    def interrupted(_: float) -> None:
        running = node.running()
        assert running is not None
        process = psutil.Process(running.pid)
        if children := process.children():
            seen.extend([process, *children])
            raise KeyboardInterrupt

    monkeypatch.setattr(cluster_node.time, "sleep", interrupted)
    monkeypatch.setattr(cluster_node, "_STOP_SECONDS", 0.5)
    with pytest.raises(KeyboardInterrupt):
        node.start([sys.executable, "-c", silent], dict(os.environ), "head", "10.0.0.5:6379")
    assert len(seen) == 2
    assert not psutil.wait_procs(seen, timeout=10)[1]
    assert node.running() is None
