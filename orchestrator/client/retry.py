"""When a request is sent again, and after how long."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

_FIRST_SECONDS, _LONGEST_SECONDS = 0.2, 5.0
_REFUSED_FOR_NOW = frozenset({429, 502, 503, 504})

# The request did not reach the service.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@dataclass(slots=True)
class Retry:
    """Of one request."""

    seconds: float
    """How long it may be sent again, from now."""
    repeatable: bool
    clock: Callable[[], float] = time.monotonic
    attempts: int = 0
    _until: float = field(init=False)

    def __post_init__(self) -> None:
        self._until = self.clock() + self.seconds

    def after_error(self, error: httpx.TransportError) -> float | None:
        """Seconds to wait before the next attempt; None if there is to be none."""
        if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
            return None
        return self._pause(None) if self.repeatable or isinstance(error, _NOT_SENT) else None

    def after_answer(self, response: httpx.Response) -> float | None:
        """Likewise, behind an answer that refuses for now."""
        if response.status_code not in _REFUSED_FOR_NOW:
            return None
        if not self.repeatable and response.status_code != 429:
            return None
        asked = response.headers.get("retry-after", "")
        return self._pause(float(asked) if asked.isascii() and asked.isdigit() else None)

    def _pause(self, asked: float | None) -> float | None:
        longest = min(_LONGEST_SECONDS, _FIRST_SECONDS * 2**self.attempts)
        pause = asked if asked is not None else longest * random.uniform(0.5, 1)
        self.attempts += 1
        return pause if self.clock() + pause <= self._until else None
