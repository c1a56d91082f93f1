"""The learner's end of the sockets on which the rollout workers of its machine hear of new weights.

Invariant: a memory file counts as read from when it is announced until something newer is and every worker that was
told of it has replied or has gone. A worker is told of one at a time, the newest there is once it has replied to the
last: one that hangs holds up nobody, and keeps one file.

A thread of its own looks after the sockets, so that a worker can join while the learner learns.
"""

import selectors
import socket
import threading
from dataclasses import dataclass

from protocol.announcement import Announcement, listen, receive_name, receive_reply, require_same_user, send


@dataclass(slots=True, eq=False)
class _Worker:
    """One that is connected."""

    socket: socket.socket
    name: str = ""
    """Empty until it has said it."""
    told: int = 0
    """The newest announcement it was told of."""
    reads: int | None = None
    """Descriptor of the memory it was told of, until it has replied."""
    holds: int = 0
    """The newest announcement whose weights it has."""


class Announcer:
    """Tells workers of new weights, and knows who has them."""

    def __init__(self) -> None:
        self._server, self.address = listen()
        self._changed = threading.Condition()
        self._workers: set[_Worker] = set()
        self._latest: tuple[Announcement, int] | None = None
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ)
        # What is written to one end ends the thread, which reads the other.
        self._end, ended = socket.socketpair()
        self._selector.register(ended, selectors.EVENT_READ)
        self._ended = ended
        self._thread = threading.Thread(target=self._serve, name="weight-announcer", daemon=True)
        self._thread.start()

    def announce(
        self, descriptor: int, version: int, described: tuple[int, int], *, audio_changed: bool, patience: float
    ) -> tuple[int, frozenset[str]]:
        """Tell all workers that are connected of new weights in a memory file.

        Args:
            described: as `Announcement.description`.
            patience: seconds to wait for their replies.

        Returns:
            The announcement's number, and who has the weights by then, by name.
        """
        with self._changed:
            number = 1 if self._latest is None else self._latest[0].number + 1
            self._latest = Announcement(number, version, described, audio_changed), descriptor
            for worker in list(self._workers):
                self._tell(worker)
            self._changed.wait_for(lambda: not any(worker.reads is not None for worker in self._workers), patience)
            return number, frozenset(worker.name for worker in self._workers if worker.holds == number)

    def is_read(self, descriptor: int) -> bool:
        """Whether someone reads a memory file, or may begin to at any time."""
        with self._changed:
            latest = self._latest is not None and self._latest[1] == descriptor
            return latest or any(worker.reads == descriptor for worker in self._workers)

    def close(self) -> None:
        """Leave the workers; each keeps the weights it has."""
        self._end.send(b"x")
        self._thread.join()
        for one in (self._end, self._ended, self._server):
            one.close()
        self._selector.close()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._ended:
                    with self._changed:
                        for worker in list(self._workers):
                            self._drop(worker)
                    return
                if key.fileobj is self._server:
                    self._accept()
                else:
                    self._hear(key.data)

    def _accept(self) -> None:
        try:
            connected, _ = self._server.accept()
        except OSError:
            return  # it has gone again
        try:
            require_same_user(connected)
        except PermissionError:
            connected.close()
            return
        connected.setblocking(False)
        worker = _Worker(connected)
        with self._changed:
            self._workers.add(worker)
        self._selector.register(connected, selectors.EVENT_READ, worker)

    def _hear(self, worker: _Worker) -> None:
        with self._changed:
            try:
                if not worker.name:
                    worker.name = receive_name(worker.socket)
                    if worker.name:
                        self._tell(worker)
                    else:
                        self._drop(worker)
                    return
                reply = receive_reply(worker.socket)
            except BlockingIOError:
                return
            except (OSError, ValueError):
                reply = None
            if reply is None:
                self._drop(worker)
                return
            worker.reads = None
            if reply.holds:
                worker.holds = reply.number
            self._tell(worker)
            self._changed.notify_all()

    def _tell(self, worker: _Worker) -> None:
        """Announce the newest weights to a worker that has said its name, has not heard of them and reads no others."""
        if self._latest is None or not worker.name or worker.reads is not None:
            return
        announcement, descriptor = self._latest
        if worker.told == announcement.number:
            return
        worker.told, worker.reads = announcement.number, descriptor
        try:
            send(worker.socket, announcement, descriptor)
        except OSError:
            self._drop(worker)  # it has gone

    def _drop(self, worker: _Worker) -> None:
        if worker in self._workers:
            self._workers.remove(worker)
            if worker.socket in self._selector.get_map():
                self._selector.unregister(worker.socket)
            worker.socket.close()
            self._changed.notify_all()
