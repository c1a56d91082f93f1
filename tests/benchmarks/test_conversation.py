"""A benchmark and its peer: one answer to each question, and never a peer that is left behind."""

import os
import sys
from pathlib import Path

import pytest

from benchmarks.peers.conversation import Peer, PeerError

ROOT = Path(__file__).parents[2]
PEER = """
import os, time
from benchmarks.peers.conversation import Questions
questions = Questions()
while True:
    question = questions.next()
    print("progress: 50 %")
    os.system("echo noise")
    if question["do"] == "hang":
        time.sleep(60)
    if question["do"] == "die":
        os._exit(7)
    questions.answer({"pid": os.getpid(), "did": question["do"]})
"""


def peer(timeout: float = 20.0) -> Peer:
    return Peer("it", [sys.executable, "-c", PEER], folder=ROOT, environment={**os.environ}, timeout=timeout)


def ended(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_each_question_has_its_answer_whatever_else_is_printed():
    with peer() as it:
        answers = [it.ask({"do": word}) for word in ("one", "two")]
    assert [a["did"] for a in answers] == ["one", "two"]
    assert ended(answers[0]["pid"])


def test_a_peer_that_dies_is_an_error_with_its_exit_code():
    with peer() as it, pytest.raises(PeerError, match="exit code 7"):
        it.ask({"do": "die"})


def test_a_peer_that_hangs_is_an_error_and_is_ended():
    with pytest.raises(PeerError, match="did not answer within 3 s"), peer(timeout=3.0) as it:
        pid = it.ask({"do": "live"})["pid"]
        it.ask({"do": "hang"})
    assert ended(pid)


def test_an_error_in_the_benchmark_ends_the_peer():
    with pytest.raises(ZeroDivisionError), peer() as it:
        pid = it.ask({"do": "live"})["pid"]
        1 / 0  # noqa: B018
    assert ended(pid)
