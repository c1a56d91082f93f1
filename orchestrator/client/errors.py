"""Errors that a client raises. Every message is one line."""

import re
import ssl
from collections.abc import Mapping
from http import HTTPStatus

import httpx

from audio_qa.errors import EarshotError, InputError
from orchestrator.schemas.problem_code import ProblemCode

_TEMPORARY = frozenset(
    {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
_TOKENS = "an admin of the service makes one with `earshot token create OWNER`"
_MESSAGES: Mapping[tuple[str | None, bool], str] = {
    (ProblemCode.TOKEN_REQUIRED, False): f"the service needs a token: set EARSHOT_TOKEN to yours; {_TOKENS}",
    (ProblemCode.TOKEN_INVALID, True): (
        "the token in EARSHOT_TOKEN is not valid here, or no longer: it is unknown, revoked or expired; set another "
        f"one; {_TOKENS}"
    ),
}
"""Advice on a problem, in place of its detail: by code, and whether the request had a token."""
_ADVICE: Mapping[str | None, str] = {
    ProblemCode.ROLE_REQUIRED: "; set EARSHOT_TOKEN to one with that role, which an admin of the service makes with "
    "`earshot token create OWNER --role ROLE`",
}
"""Advice on a problem, after its detail."""


class ClientError(EarshotError):
    """A request to the service failed."""


class AddressError(ClientError, InputError):
    """The service's URL or the token cannot be used."""


class UnsendableError(ClientError, InputError):
    """A job cannot be expressed as JSON."""


class UnreachableError(ClientError):
    """The service did not answer, not even after retries."""


class AnswerError(ClientError, ValueError):
    """Something that is not an Earshot service answered."""

    def __init__(self, url: str, found: str = "its answer is not one of the API") -> None:
        super().__init__(f"{url} does not seem to be an Earshot service ({found}); correct the URL")


class WaitTimeoutError(ClientError, TimeoutError):
    """A job did not reach any of the expected states in time."""


class ApiError(ClientError):
    """The service refused the request."""

    def __init__(
        self,
        status: int,
        detail: str,
        request_id: str | None = None,
        retry_after: float | None = None,
        code: str | None = None,
        message: str | None = None,
    ) -> None:
        super().__init__(" ".join((message or detail).split()))
        self.status = status
        """HTTP status code."""
        self.detail = detail
        """Description of the problem and how to fix it."""
        self.request_id = request_id
        """Identifies the request in the log of the service."""
        self.retry_after = retry_after
        """Seconds to wait before the next attempt, if the service requested it."""
        self.code = code
        """Kind of the problem, such as `job_not_found` (docs/operate/api.md lists them); None from another program."""

    @property
    def is_temporary(self) -> bool:
        """True if the same request may succeed a little later. A full queue takes longer than that."""
        return self.status in _TEMPORARY and self.code != ProblemCode.QUEUE_FULL


class RefusedError(ApiError, InputError):
    """The service refused a request that the caller can correct: any 4xx but 408 and 429."""


def error_of(response: httpx.Response) -> ApiError:
    """Return the error that a response describes. Its body must have been read."""
    status, code = response.status_code, None
    try:
        document = response.json()
        detail, code = str(document["detail"]), document.get("code")
    except (ValueError, KeyError, TypeError, AttributeError):
        detail = f"HTTP {status}; {response.url.host} does not seem to run an Earshot service"
    kind = RefusedError if 400 <= status < 500 and status not in _TEMPORARY else ApiError
    seconds = response.headers.get("retry-after", "")
    retry_after = float(seconds) if seconds.isascii() and seconds.isdigit() else None
    has_token = "authorization" in response.request.headers
    message = _MESSAGES.get((code, has_token), "") or f"{detail}{_ADVICE.get(code, '')}"
    return kind(status, detail, response.headers.get("x-request-id"), retry_after, code, message)


def unreachable(url: str, error: httpx.TransportError) -> UnreachableError:
    """Return the error for a service that could not be reached, with the cause in words."""
    cause = re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
    if is_tls_error(error) and "CERTIFICATE_VERIFY_FAILED" in cause:
        cause = f"{cause}; name the certificate of its authority with SSL_CERT_FILE"
    elif is_tls_error(error):
        cause = "no TLS is spoken there; write http:// for a service without TLS"
    elif isinstance(error, httpx.TimeoutException):
        cause = "it did not answer in time"
    elif isinstance(error, httpx.RemoteProtocolError | httpx.ReadError) and url.startswith("http:"):
        cause = f"{cause.removesuffix('.')}; write https:// for a service with TLS"
    return UnreachableError(f"no service answers at {url} ({cause})")


def is_tls_error(error: BaseException | None) -> bool:
    """Return whether an error comes from TLS: another attempt would fail in the same way."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False
