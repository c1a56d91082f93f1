"""Tokens: made here, shown once, and known by their hash only."""

import hashlib
import secrets
from functools import lru_cache
from typing import Any

PREFIX = "earshot_"
_HIDDEN = "…"
_SECRET_WORDS = ("secret", "password", "api_key", "apikey", "authorization", "credential")


def new_token() -> str:
    """256 random bits behind a prefix by which scanners for leaked secrets find it."""
    return PREFIX + secrets.token_urlsafe(32)


def token_hash(token: str) -> str:
    """What the store keeps. The token is random and long, so that a fast hash does not make it easier to guess."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()


def without_secrets(value: Any) -> Any:
    """The same JSON value with whatever is kept under the name of a secret left out."""
    if isinstance(value, dict):
        return {
            key: _HIDDEN if item is not None and _is_secret(key) else without_secrets(item)
            for key, item in value.items()
        }
    return [without_secrets(item) for item in value] if isinstance(value, list) else value


@lru_cache(maxsize=4096)
def _is_secret(key: str) -> bool:
    return (
        key.lower() in {"token", "auth"}
        or key.lower().endswith("_token")
        or any(w in key.lower() for w in _SECRET_WORDS)
    )
