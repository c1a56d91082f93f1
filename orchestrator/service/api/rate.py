"""Rate limits: a token bucket per client, refilled at a constant rate."""

import time
from collections import OrderedDict
from collections.abc import Callable


class RateLimiter:
    """One bucket per client. The buckets of the most recent clients are kept; a new client starts with a full one."""

    def __init__(
        self, per_second: float, burst: float, clock: Callable[[], float] = time.monotonic, max_clients: int = 10_000
    ) -> None:
        self._per_second, self._burst, self._clock, self._max_clients = per_second, burst, clock, max_clients
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> float:
        """Count a request. Return 0 if it is allowed, else the seconds until one will be."""
        now = self._clock()
        level, filled = self._buckets.pop(client, (self._burst, now))
        level = min(self._burst, level + (now - filled) * self._per_second)
        wait = 0.0 if level >= 1 else (1 - level) / self._per_second
        self._buckets[client] = (level if wait else level - 1, now)
        while len(self._buckets) > self._max_clients:
            self._buckets.popitem(last=False)
        return wait

    def give_back(self, client: str) -> None:
        """Take back the count of one request."""
        if client in self._buckets:
            level, filled = self._buckets[client]
            self._buckets[client] = (min(self._burst, level + 1), filled)
