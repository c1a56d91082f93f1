"""When to send a request again, and after how long: conditions and delays for tenacity."""

import random

import httpx
from tenacity import RetryCallState

from orchestrator.client.errors import ApiError, is_tls_error
from protocol.back_off import back_off

_FIRST_SECONDS, _LONGEST_SECONDS = 0.2, 5.0

# Another attempt would fail in the same way.
_PERMANENT = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)


def retry_if_useful(state: RetryCallState) -> bool:
    """Return whether to try again after the last attempt. Every request may be repeated: it has an idempotency key."""
    match _error(state):
        case httpx.TransportError() as error:
            return not isinstance(error, _PERMANENT) and not is_tls_error(error)
        case ApiError() as error:
            return error.is_temporary
        case _:
            return False


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
