"""Errors that a client raises. Every message is one line."""

from http import HTTPStatus

import httpx

from audio_qa.errors import EarshotError, InputError


class ClientError(EarshotError):
    """A request to the service failed."""


class AddressError(ClientError, InputError):
    """The service's URL or the token cannot be used."""


class UnsendableError(ClientError, InputError):
    """A job cannot be expressed as JSON."""


class UnreachableError(ClientError):
    """The service did not answer, not even after retries."""


class WaitTimeoutError(ClientError, TimeoutError):
    """A job did not reach any of the expected states in time."""


class ApiError(ClientError):
    """The service refused the request."""

    def __init__(
        self, status: int, detail: str, request_id: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(" ".join(detail.split()))
        self.status = status
        """HTTP status code."""
        self.detail = detail
        """Description of the problem and how to fix it."""
        self.request_id = request_id
        """Identifies the request in the log of the service."""
        self.retry_after = retry_after
        """Seconds to wait before the next attempt, if the service requested it."""


class RefusedError(ApiError, InputError):
    """The service refused a request that the caller can correct: any 4xx but 429."""


def error_of(response: httpx.Response) -> ApiError:
    """Return the error that a response describes. Its body must have been read."""
    try:
        detail = str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        detail = f"HTTP {response.status_code}; {response.url.host} does not seem to run an Earshot service"
    correctable = 400 <= response.status_code < 500 and response.status_code != HTTPStatus.TOO_MANY_REQUESTS
    kind = RefusedError if correctable else ApiError
    seconds = response.headers.get("retry-after", "")
    retry_after = float(seconds) if seconds.isascii() and seconds.isdigit() else None
    return kind(response.status_code, detail, response.headers.get("x-request-id"), retry_after)
