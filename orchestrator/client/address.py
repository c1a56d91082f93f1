"""The address of the service and the credentials of the client."""

import os

import httpx

from audio_qa.errors import shown
from orchestrator.client.errors import AddressError
from orchestrator.places import HOST, PORT

DEFAULT_URL = f"http://{HOST}:{PORT}"


def address(url: str | None, token: str | None) -> tuple[httpx.URL, dict[str, str]]:
    """Return the URL of the service and the headers of every request. None is replaced from the environment.

    Raises:
        AddressError: the URL cannot be one of a service.
    """
    text = url or os.environ.get("EARSHOT_URL") or DEFAULT_URL
    token = token if token is not None else os.environ.get("EARSHOT_TOKEN")
    try:
        parsed = httpx.URL(text.rstrip("/"))
    except (httpx.InvalidURL, ValueError) as error:
        raise AddressError(f"{shown(text)} is not a URL ({error}); write http://HOST:PORT") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise AddressError(f"{shown(text)} is not the URL of a service; write http://HOST:PORT")
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise AddressError("the token contains characters that a token cannot have; check EARSHOT_TOKEN")
    return parsed, {"Authorization": f"Bearer {token}"} if token else {}
