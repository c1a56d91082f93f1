"""The learner's end of the sockets that announce new weights to the rollout workers of its machine.

Invariant: a memory file counts as read from its announcement until a newer one is announced and every worker that
received the announcement has replied or disconnected. A worker has at most one open announcement; after its reply it
gets the newest one. A worker that hangs blocks no other worker, and keeps one file.

A separate thread serves the sockets, so that a worker can connect while the learner trains.
"""

import selectors
import socket
import threading
from dataclasses import dataclass

from protocol.announcement import Announcement, listen, receive_name, receive_reply, require_same_user, send


@dataclass(slots=True, eq=False)
class _Worker:
    """A connected worker."""

    socket: socket.socket
    name: str = ""
    """Empty until the worker has sent it."""
    announced: int = 0
    """Number of the newest announcement sent to it."""
    reading: int | None = None
    """Descriptor of the announced memory, until the worker has replied."""
    holds: int = 0
    """Number of the newest announcement whose weights it has loaded."""


class Announcer:
    """A server that announces new weights to workers, and tracks which workers have loaded them."""

    def __init__(self) -> None:
        self._server, self.address = listen()
        self._changed = threading.Condition()
        self._workers: set[_Worker] = set()
        self._latest: tuple[Announcement, int] | None = None
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ)
        # A byte written to one end stops the thread, which selects on the other.
        self._end, ended = socket.socketpair()
        self._selector.register(ended, selectors.EVENT_READ)
        self._ended = ended
        self._thread = threading.Thread(target=self._serve, name="weight-announcer", daemon=True)
        self._thread.start()

    def announce(
        self, descriptor: int, version: int, described: tuple[int, int], *, audio_changed: bool, patience: float
    ) -> tuple[int, frozenset[str]]:
        """Announce new weights in a memory file to all connected workers.

        Args:
            described: see `Announcement.description`.
            patience: seconds to wait for replies.

        Returns:
            The announcement's number, and the names of the workers that have loaded the weights by then.
        """
        with self._changed:
            number = 1 if self._latest is None else self._latest[0].number + 1
            self._latest = Announcement(number, version, described, audio_changed), descriptor
            for worker in list(self._workers):
                self._send_latest(worker)
            self._changed.wait_for(lambda: not any(worker.reading is not None for worker in self._workers), patience)
            return number, frozenset(worker.name for worker in self._workers if worker.holds == number)

    def is_read(self, descriptor: int) -> bool:
        """Return whether a worker reads a memory file, or may start to at any time."""
        with self._changed:
            latest = self._latest is not None and self._latest[1] == descriptor
            return latest or any(worker.reading == descriptor for worker in self._workers)

    def close(self) -> None:
        """Disconnect the workers. Each keeps its current weights."""
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
                    self._receive(key.data)

    def _accept(self) -> None:
        try:
            connected, _ = self._server.accept()
        except OSError:
            return  # the worker has disconnected
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

    def _receive(self, worker: _Worker) -> None:
        with self._changed:
            try:
                if not worker.name:
                    worker.name = receive_name(worker.socket)
                    if worker.name:
                        self._send_latest(worker)
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
            worker.reading = None
            if reply.holds:
                worker.holds = reply.number
            self._send_latest(worker)
            self._changed.notify_all()

    def _send_latest(self, worker: _Worker) -> None:
        """Announce the newest weights to a worker that has a name, does not know of them and is not reading."""
        if self._latest is None or not worker.name or worker.reading is not None:
            return
        announcement, descriptor = self._latest
        if worker.announced == announcement.number:
            return
        worker.announced, worker.reading = announcement.number, descriptor
        try:
            send(worker.socket, announcement, descriptor)
        except OSError:
            self._drop(worker)  # the worker has disconnected

    def _drop(self, worker: _Worker) -> None:
        if worker in self._workers:
            self._workers.remove(worker)
            if worker.socket in self._selector.get_map():
                self._selector.unregister(worker.socket)
            worker.socket.close()
            self._changed.notify_all()
