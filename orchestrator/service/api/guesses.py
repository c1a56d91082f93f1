"""The number of tokens that a client may have looked up.

Invariant: when a client has used up its guesses, no token of its is looked up, valid or not, except one that was
valid a while ago: others with the same address, who work with valid tokens, are not locked out.
"""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from audio_qa.errors import EarshotError
from orchestrator.service.api.rate import RateLimiter
from orchestrator.service.store.access import TokenRecord

_SECONDS_KNOWN = 12 * 3600.0

Find = Callable[[str], Awaitable[TokenRecord | None]]
"""Returns the valid token with a hash, or None."""


class TooManyGuessesError(EarshotError):
    """The client has used up its guesses."""

    def __init__(self, wait: float) -> None:
        super().__init__(f"retry after {wait:.1f} s")
        self.wait = wait
        """Seconds until the next guess."""


class Guesses:
    """For use on one event loop. Valid tokens are remembered as their hashes, the latest ones only."""

    def __init__(
        self,
        per_second: float,
        burst: float,
        find: Find,
        *,
        clock: Callable[[], float] = time.monotonic,
        max_known: int = 10_000,
    ) -> None:
        """
        Args:
            find: looks a token up. It is asked for each request: a token that is revoked ends at once.
        """
        self._rate = RateLimiter(per_second, burst, clock)
        self._find, self._clock, self._max_known = find, clock, max_known
        self._known: OrderedDict[str, float] = OrderedDict()

    async def find(self, client: str, token_hash: str) -> TokenRecord | None:
        """Return the token, or None if it is not valid. Raises TooManyGuessesError."""
        known = self._is_known(token_hash)
        if not known and (wait := self._rate.take(client)):
            raise TooManyGuessesError(wait)
        try:
            token = await self._find(token_hash)
        except EarshotError:
            # Without the database nothing was learned.
            if not known:
                self._rate.give_back(client)
            raise
        if token is None:
            if self._known.pop(token_hash, None) is not None:
                self._rate.take(client)
            return None
        if not known:
            self._rate.give_back(client)
        self._known[token_hash] = self._clock()
        self._known.move_to_end(token_hash)
        while len(self._known) > self._max_known:
            self._known.popitem(last=False)
        return token

    def _is_known(self, token_hash: str) -> bool:
        return self._clock() - self._known.get(token_hash, -float("inf")) < _SECONDS_KNOWN
