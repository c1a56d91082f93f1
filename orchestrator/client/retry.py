"""When to send a request again, and after how long: conditions and delays for tenacity."""

import random
from collections.abc import Callable

import httpx
from tenacity import RetryCallState

from orchestrator.client.errors import ApiError
from protocol.back_off import back_off

_FIRST_SECONDS, _LONGEST_SECONDS = 0.2, 5.0
_REFUSED_FOR_NOW = frozenset({429, 502, 503, 504})

# The request did not reach the service.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
# Another attempt would fail in the same way.
_PERMANENT = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)


def retry_if_safe(repeatable: bool) -> Callable[[RetryCallState], bool]:
    """Return whether to try again, as a function of the last attempt.

    A request that is not `repeatable` is repeated only if the service cannot have acted on it.
    """

    def retry(state: RetryCallState) -> bool:
        match _error(state):
            case httpx.TransportError() as error:
                return not isinstance(error, _PERMANENT) and (repeatable or isinstance(error, _NOT_SENT))
            case ApiError(status=status):
                return status == 429 or (repeatable and status in _REFUSED_FOR_NOW)
            case _:
                return False

    return retry


def wait_for_service(state: RetryCallState) -> float:
    """Return the seconds that the service requested in Retry-After, or an exponential delay with jitter."""
    error = _error(state)
    if isinstance(error, ApiError) and error.retry_after is not None:
        return error.retry_after
    return _jittered(back_off(state.attempt_number - 1, _FIRST_SECONDS, _LONGEST_SECONDS))


def reconnect_delay() -> float:
    """Return the seconds to wait before a stream that was interrupted is opened again."""
    return _jittered(_FIRST_SECONDS)


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(0.5, 1)


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None
