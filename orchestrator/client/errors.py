"""What a client raises; every message is one line."""

import httpx


class ClientError(Exception):
    """Something between this program and the service went wrong."""


class UnreachableError(ClientError):
    """The service did not answer, also not when asked again."""


class WaitTimeoutError(ClientError, TimeoutError):
    """A job did not come to the state that was waited for."""


class ApiError(ClientError):
    """The service refused."""

    def __init__(self, status: int, detail: str, request_id: str | None = None) -> None:
        super().__init__(" ".join(detail.split()))
        self.status = status
        """Of HTTP."""
        self.detail = detail
        """What is wrong, and how to mend it."""
        self.request_id = request_id
        """Under which the service's log tells more."""


def error_of(response: httpx.Response) -> ApiError:
    """The error in an answer that is one, and has been read."""
    try:
        detail = str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        detail = f"HTTP {response.status_code} from something that is no Earshot service at {response.url.host}"
    return ApiError(response.status_code, detail, response.headers.get("x-request-id"))
