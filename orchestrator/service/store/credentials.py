"""Secrets of tokens: created here, shown once, and stored only as a hash."""

import hashlib
import secrets
from functools import lru_cache
from typing import Any

PREFIX = "earshot_"
_HIDDEN = "…"
_SECRET_WORDS = ("secret", "password", "api_key", "apikey", "authorization", "credential")


def new_token() -> str:
    """Return a new token: 256 random bits after a prefix that scanners for leaked secrets recognise."""
    return PREFIX + secrets.token_urlsafe(32)


def token_hash(token: str) -> str:
    """Return the hash that is stored. A fast hash is safe here because tokens are long and random."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()


def without_secrets(value: Any) -> Any:
    """Return the same JSON value with values masked whose key is the name of a secret."""
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
