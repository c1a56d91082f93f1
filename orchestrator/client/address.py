"""Where the service is, and who asks."""

import os

import httpx

from orchestrator.client.errors import ClientError
from orchestrator.places import HOST, PORT

DEFAULT_URL = f"http://{HOST}:{PORT}"


def address(url: str | None, token: str | None) -> tuple[httpx.URL, dict[str, str]]:
    """The service's URL and the headers of every request; what is None is taken from the environment.

    Raises:
        ClientError: the URL cannot be one of a service.
    """
    text = url or os.environ.get("EARSHOT_URL") or DEFAULT_URL
    token = token if token is not None else os.environ.get("EARSHOT_TOKEN")
    try:
        parsed = httpx.URL(text.rstrip("/"))
    except (httpx.InvalidURL, ValueError) as error:
        raise ClientError(f"{text!r} is no URL ({error}); write http://HOST:PORT") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ClientError(f"{text!r} is no URL of a service; write http://HOST:PORT")
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise ClientError("the token holds characters that no token has; check EARSHOT_TOKEN")
    return parsed, {"Authorization": f"Bearer {token}"} if token else {}
