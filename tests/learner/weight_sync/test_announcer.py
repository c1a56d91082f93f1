"""The learner's end of the announcement sockets, with workers that are only sockets."""

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
    """Create memory files with one byte."""
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
    """A worker that replies only on `reply`."""

    def __init__(self, announcer: Announcer, name: str) -> None:
        self.socket = connect(announcer.address, name)
        self.socket.settimeout(5)

    def receive(self) -> tuple[int, int, bytes]:
        """Return the next announcement's number and version, and the contents of its file."""
        received = receive(self.socket)
        assert received is not None, "the learner has disconnected"
        announcement, descriptor = received
        content = os.pread(descriptor, 1, 0)
        os.close(descriptor)
        return announcement.number, announcement.version, content

    def reply(self, number: int, *, holds: bool = True) -> None:
        send_reply(self.socket, Reply(number, holds))

    def receives_nothing(self) -> bool:
        self.socket.settimeout(0.1)
        try:
            return receive(self.socket) is None
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(5)


def announce(announcer: Announcer, file: int, version: int, patience: float = PATIENCE):
    return announcer.announce(file, version, (0, 1), audio_changed=False, patience=patience)


def wait_for(condition) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_workers_that_reply_in_time_hold_the_weights(announcer, file):
    a, b, c = (Worker(announcer, name) for name in "abc")
    wait_for(lambda: len(announcer._workers) == 3)
    first = file(b"1")
    number, held = announce(announcer, first, 7)
    assert (number, held) == (1, frozenset()), "no worker has replied"
    assert a.receive() == b.receive() == c.receive() == (1, 7, b"1")
    a.reply(1)
    b.reply(1)
    c.reply(1, holds=False)
    wait_for(lambda: not any(w.reading is not None for w in announcer._workers))
    second = file(b"2")
    started = time.monotonic()
    assert announce(announcer, second, 8) == (2, frozenset())
    assert PATIENCE <= time.monotonic() - started < PATIENCE + 2
    a.reply(2)
    wait_for(lambda: any(w.holds == 2 for w in announcer._workers))


def test_announce_returns_after_the_last_reply(announcer, file):
    worker = Worker(announcer, "a")
    wait_for(lambda: len(announcer._workers) == 1)

    def take() -> None:
        worker.reply(worker.receive()[0])

    thread = threading.Thread(target=take)
    thread.start()
    started = time.monotonic()
    assert announce(announcer, file(b"1"), 1, patience=60) == (1, frozenset({"a"}))
    assert time.monotonic() - started < 30
    thread.join()


def test_a_late_worker_receives_the_newest_at_once(announcer, file):
    announce(announcer, file(b"1"), 1)
    announce(announcer, file(b"2"), 2)
    assert Worker(announcer, "late").receive() == (2, 2, b"2")


def test_the_file_of_a_hung_worker_is_kept_until_it_replies_or_disconnects(announcer, file):
    files = [file(bytes([i])) for i in range(6)]
    hung, dies = Worker(announcer, "hung"), Worker(announcer, "dies")
    wait_for(lambda: len(announcer._workers) == 2)
    announce(announcer, files[0], 1)
    for version in (2, 3, 4):
        announce(announcer, files[version - 1], version)
    assert [announcer.is_read(f) for f in files[:4]] == [True, False, False, True], "read, passed over, the newest"
    assert hung.receive()[:2] == (1, 1)
    assert hung.receives_nothing(), "a worker has one open announcement at a time"
    hung.reply(1)
    assert hung.receive()[:2] == (4, 4), "and then the newest"
    assert announcer.is_read(files[0]), "the other worker still reads it"
    dies.socket.close()
    wait_for(lambda: not announcer.is_read(files[0]))
    announce(announcer, files[4], 5)
    assert announcer.is_read(files[3])
    hung.reply(4)
    wait_for(lambda: not announcer.is_read(files[3]))
    assert hung.receive()[:2] == (5, 5)


def test_a_disconnected_worker_does_not_hold_the_weights(announcer, file):
    worker = Worker(announcer, "a")
    wait_for(lambda: len(announcer._workers) == 1)
    announce(announcer, file(b"1"), 1)
    worker.reply(worker.receive()[0])
    wait_for(lambda: any(w.holds == 1 for w in announcer._workers))
    worker.socket.close()
    wait_for(lambda: not announcer._workers)
    assert announce(announcer, file(b"2"), 2) == (2, frozenset())


def test_an_invalid_reply_closes_only_that_connection(announcer, file):
    odd, other = Worker(announcer, "odd"), Worker(announcer, "other")
    nameless = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    nameless.connect(f"\0{announcer.address}")
    wait_for(lambda: len(announcer._workers) == 3)
    nameless.close()
    odd.socket.send(b"?")
    wait_for(lambda: len(announcer._workers) == 1)
    announce(announcer, file(b"1"), 1)
    assert other.receive()[0] == 1


def test_workers_detect_that_the_learner_has_disconnected():
    announcer = Announcer()
    worker = Worker(announcer, "a")
    wait_for(lambda: len(announcer._workers) == 1)
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
    print("accepted" if stranger.recv(100) else "refused")
except ConnectionError:
    print("refused")
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_users_process_is_refused(announcer, file):
    announce(announcer, file(b"1"), 1)
    stranger = subprocess.run(
        [sys.executable, "-c", STRANGER, announcer.address], capture_output=True, text=True, timeout=60, check=True
    )
    assert stranger.stdout.strip() == "refused"
    assert not announcer._workers
