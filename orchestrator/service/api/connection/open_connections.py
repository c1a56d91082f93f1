"""The open connections of one service: their number in total and of each peer, and their deadlines.

Invariant: a connection is counted from its start to its end, once; what all clients together leave unread is bounded.
"""

import asyncio
import resource
from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from orchestrator.service.api.connection.peer import Peer
from orchestrator.service.api.meters import Meters
from orchestrator.service.api.settings import ApiSettings

_OTHER_FILES = 256
"""Open files that the service needs besides connections: the database, runs, processes."""
_SWEEP_SECONDS = 0.5
_MOST_REFUSED = 64
"""Refused connections that wait for their client to read the refusal."""


class Connection(Protocol):
    """A connection, as its limits see it."""

    peer: Peer

    def check(self, now: float) -> None:
        """End the connection if it is late."""

    def unsent_bytes(self) -> int:
        """Return the size of what the client has not taken yet."""

    def abort(self, reason: str) -> None:
        """Close the connection without a response."""


class OpenConnections:
    """For use on one event loop."""

    def __init__(self, settings: ApiSettings, meters: Meters) -> None:
        self._settings, self._meters = settings, meters
        self._most = fitting(settings.max_connections)
        self._open: set[Connection] = set()
        self._refused: set[Connection] = set()
        self._of_peers: Counter[str] = Counter()
        self._sweeping: asyncio.TimerHandle | None = None
        deadlines = settings.head_seconds, settings.body_seconds, settings.unread_seconds
        self._pause = min(_SWEEP_SECONDS, min(deadlines) / 4)

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Connection) -> str | None:
        """Count a connection. Return None if it is admitted, else the limit that it is beyond."""
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(self._pause, self._sweep)
        key, most = connection.peer.key, self._settings.max_connections_per_peer
        reason = None
        if len(self._open) >= self._most:
            reason = f"the service has {self._most} open connections, the maximum"
        elif self._of_peers[key] >= most:
            reason = (
                f"{key} has {most} open connections, the maximum; close some, or keep connections for more requests"
            )
        if reason is None:
            self._open.add(connection)
            self._of_peers[key] += 1
            self._meters.connections.set(len(self._open))
        elif len(self._refused) < _MOST_REFUSED:
            self._refused.add(connection)
        else:
            connection.abort("too_many_connections")
        return reason

    def remove(self, connection: Connection) -> None:
        """Stop counting a connection that has ended."""
        self._refused.discard(connection)
        if connection in self._open:
            self._open.remove(connection)
            key = connection.peer.key
            self._of_peers[key] -= 1
            if not self._of_peers[key]:
                del self._of_peers[key]
            self._meters.connections.set(len(self._open))

    def count_end(self, reason: str) -> None:
        """Count a connection that the service ends, in its metrics."""
        self._meters.connections_ended.labels(reason).inc()

    def _sweep(self) -> None:
        """End connections that are late, and those with the most unread bytes while all have too many."""
        self._sweeping = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in (*self._open, *self._refused):
            connection.check(now)
        self._bound_unsent(self._open)
        if self._open or self._refused:
            self._sweeping = loop.call_later(self._pause, self._sweep)

    def _bound_unsent(self, connections: Iterable[Connection]) -> None:
        sizes = {connection: size for connection in connections if (size := connection.unsent_bytes())}
        total = sum(sizes.values())
        if total <= self._settings.max_unread_bytes:
            return
        for connection in sorted(sizes, key=sizes.__getitem__, reverse=True):
            connection.abort("unread")
            total -= sizes[connection]
            if total <= self._settings.max_unread_bytes:
                return


def fitting(connections: int) -> int:
    """Return how many connections the process may have, up to this number; raise its limit of open files for them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    return connections if soft == resource.RLIM_INFINITY else max(1, min(connections, soft - _OTHER_FILES))
