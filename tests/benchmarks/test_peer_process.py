"""A benchmark and its peer: one reply to each request, and no orphaned peer process."""

import os
import sys
from pathlib import Path

import pytest

from benchmarks.peers.process import Peer, PeerError

ROOT = Path(__file__).parents[2]
PEER = """
import os, time
from benchmarks.peers.process import Requests
requests = Requests()
while True:
    request = requests.next()
    print("progress: 50 %")
    os.system("echo noise")
    if request["do"] == "hang":
        time.sleep(60)
    if request["do"] == "die":
        os._exit(7)
    requests.reply({"pid": os.getpid(), "did": request["do"]})
"""


def peer(timeout: float = 20.0) -> Peer:
    return Peer("it", [sys.executable, "-c", PEER], folder=ROOT, environment={**os.environ}, timeout=timeout)


def ended(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_each_request_gets_its_reply_despite_other_output():
    with peer() as it:
        replies = [it.request({"do": word}) for word in ("one", "two")]
    assert [r["did"] for r in replies] == ["one", "two"]
    assert ended(replies[0]["pid"])


def test_a_peer_that_dies_is_an_error_with_its_exit_code():
    with peer() as it, pytest.raises(PeerError, match="exit code 7"):
        it.request({"do": "die"})


def test_a_peer_that_hangs_is_an_error_and_is_ended():
    with pytest.raises(PeerError, match="did not reply within 3 s"), peer(timeout=3.0) as it:
        pid = it.request({"do": "live"})["pid"]
        it.request({"do": "hang"})
    assert ended(pid)


def test_an_error_in_the_benchmark_ends_the_peer():
    with pytest.raises(ZeroDivisionError), peer() as it:
        pid = it.request({"do": "live"})["pid"]
        1 / 0  # noqa: B018
    assert ended(pid)
