"""How many requests somebody may make: a bucket that fills at a rate and each request takes from."""

import time
from collections import OrderedDict
from collections.abc import Callable


class Rate:
    """One bucket for each of those who came last; who comes anew has a full one."""

    def __init__(
        self, per_second: float, burst: float, clock: Callable[[], float] = time.monotonic, most: int = 10_000
    ) -> None:
        self._per_second, self._burst, self._clock, self._most = per_second, burst, clock, most
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, who: str) -> float:
        """Take one request; 0, or the seconds to wait before there is one to take."""
        now = self._clock()
        level, filled = self._buckets.pop(who, (self._burst, now))
        level = min(self._burst, level + (now - filled) * self._per_second)
        wait = 0.0 if level >= 1 else (1 - level) / self._per_second
        self._buckets[who] = (level if wait else level - 1, now)
        while len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        return wait
