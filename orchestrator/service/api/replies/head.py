"""Requests that ask for headers only.

The gate hands a HEAD request to the app as GET, so that every route answers it with the same headers; routes whose
content costs something, or never ends, look here whether it will be sent.
"""

from starlette.types import Scope

_KEY = "earshot.head"


def as_get(scope: Scope) -> Scope:
    """Return the scope for the app: that of a GET request if it is one of HEAD."""
    return {**scope, "method": "GET", _KEY: True} if scope["method"] == "HEAD" else {**scope}


def is_head(scope: Scope) -> bool:
    """Return whether the client gets headers only."""
    return bool(scope.get(_KEY))
