"""The learner's end of the sockets that new weights are announced on, with workers that are only sockets."""

import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from learner.weight_sync.announcer import Announcer
from protocol.announcement import Reply, connect, receive, send_reply

PATIENCE = 0.2


@pytest.fixture
def announcer():
    made = Announcer()
    yield made
    made.close()


@pytest.fixture
def file():
    """Makes memory files that hold one byte."""
    made = []

    def make(content: bytes) -> int:
        descriptor = os.memfd_create("weights")
        os.write(descriptor, content)
        made.append(descriptor)
        return descriptor

    yield make
    for descriptor in made:
        os.close(descriptor)


class Worker:
    """A worker that replies when it is told to."""

    def __init__(self, announcer: Announcer, name: str) -> None:
        self.socket = connect(announcer.address, name)
        self.socket.settimeout(5)

    def hear(self) -> tuple[int, int, bytes]:
        """The next announcement's number and version, and what its file holds."""
        heard = receive(self.socket)
        assert heard is not None, "the learner has gone"
        announcement, descriptor = heard
        content = os.pread(descriptor, 1, 0)
        os.close(descriptor)
        return announcement.number, announcement.version, content

    def reply(self, number: int, *, holds: bool = True) -> None:
        send_reply(self.socket, Reply(number, holds))

    def hears_nothing(self) -> bool:
        self.socket.settimeout(0.1)
        try:
            return receive(self.socket) is None
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(5)


def announce(announcer: Announcer, file: int, version: int, patience: float = PATIENCE):
    return announcer.announce(file, version, (0, 1), audio_changed=False, patience=patience)


def until(true) -> None:
    deadline = time.monotonic() + 5
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_who_replies_in_time_holds_the_weights(announcer, file):
    a, b, c = (Worker(announcer, name) for name in "abc")
    until(lambda: len(announcer._workers) == 3)
    first = file(b"1")
    number, held = announce(announcer, first, 7)
    assert (number, held) == (1, frozenset()), "nobody has replied"
    assert a.hear() == b.hear() == c.hear() == (1, 7, b"1")
    a.reply(1)
    b.reply(1)
    c.reply(1, holds=False)
    until(lambda: not any(w.reads is not None for w in announcer._workers))
    second = file(b"2")
    started = time.monotonic()
    assert announce(announcer, second, 8) == (2, frozenset())
    assert PATIENCE <= time.monotonic() - started < PATIENCE + 2
    a.reply(2)
    until(lambda: any(w.holds == 2 for w in announcer._workers))


def test_it_waits_no_longer_than_the_last_reply(announcer, file):
    worker = Worker(announcer, "a")
    until(lambda: len(announcer._workers) == 1)

    def take() -> None:
        worker.reply(worker.hear()[0])

    thread = threading.Thread(target=take)
    thread.start()
    started = time.monotonic()
    assert announce(announcer, file(b"1"), 1, patience=60) == (1, frozenset({"a"}))
    assert time.monotonic() - started < 30
    thread.join()


def test_who_comes_late_hears_the_newest_at_once(announcer, file):
    announce(announcer, file(b"1"), 1)
    announce(announcer, file(b"2"), 2)
    assert Worker(announcer, "late").hear() == (2, 2, b"2")


def test_a_file_that_hangs_with_a_worker_is_left_alone_until_it_replies_or_goes(announcer, file):
    files = [file(bytes([i])) for i in range(6)]
    hung, dies = Worker(announcer, "hung"), Worker(announcer, "dies")
    until(lambda: len(announcer._workers) == 2)
    announce(announcer, files[0], 1)
    for version in (2, 3, 4):
        announce(announcer, files[version - 1], version)
    assert [announcer.is_read(f) for f in files[:4]] == [True, False, False, True], "read, passed over, the newest"
    assert hung.hear()[:2] == (1, 1)
    assert hung.hears_nothing(), "a worker is told of one at a time"
    hung.reply(1)
    assert hung.hear()[:2] == (4, 4), "and of the newest then"
    assert announcer.is_read(files[0]), "the other one still reads it"
    dies.socket.close()
    until(lambda: not announcer.is_read(files[0]))
    announce(announcer, files[4], 5)
    assert announcer.is_read(files[3])
    hung.reply(4)
    until(lambda: not announcer.is_read(files[3]))
    assert hung.hear()[:2] == (5, 5)


def test_who_has_gone_does_not_hold_the_weights(announcer, file):
    worker = Worker(announcer, "a")
    until(lambda: len(announcer._workers) == 1)
    announce(announcer, file(b"1"), 1)
    worker.reply(worker.hear()[0])
    until(lambda: any(w.holds == 1 for w in announcer._workers))
    worker.socket.close()
    until(lambda: not announcer._workers)
    assert announce(announcer, file(b"2"), 2) == (2, frozenset())


def test_what_is_no_reply_ends_the_connection_and_no_more(announcer, file):
    odd, other = Worker(announcer, "odd"), Worker(announcer, "other")
    nameless = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    nameless.connect(f"\0{announcer.address}")
    until(lambda: len(announcer._workers) == 3)
    nameless.close()
    odd.socket.send(b"?")
    until(lambda: len(announcer._workers) == 1)
    announce(announcer, file(b"1"), 1)
    assert other.hear()[0] == 1


def test_workers_learn_that_the_learner_has_gone():
    announcer = Announcer()
    worker = Worker(announcer, "a")
    until(lambda: len(announcer._workers) == 1)
    announcer.close()
    assert receive(worker.socket) is None
    with pytest.raises(ConnectionRefusedError):
        connect(announcer.address, "a")


STRANGER = """
import os, socket, sys
os.setuid(65534)
stranger = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
stranger.settimeout(10)
stranger.connect("\\0" + sys.argv[1])
try:
    stranger.send(b"stranger")
    print("told" if stranger.recv(100) else "refused")
except ConnectionError:
    print("refused")
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_users_process_is_told_nothing(announcer, file):
    announce(announcer, file(b"1"), 1)
    stranger = subprocess.run(
        [sys.executable, "-c", STRANGER, announcer.address], capture_output=True, text=True, timeout=60, check=True
    )
    assert stranger.stdout.strip() == "refused"
    assert not announcer._workers
