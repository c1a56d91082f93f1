"""ETags and the conditional headers of requests (RFC 9110, section 13)."""

import hashlib
import re
from datetime import datetime
from email.utils import parsedate_to_datetime

from starlette.datastructures import Headers

# Elements of a list may be empty.
_TAG = re.compile(r'[\s,]*(W/)?("[\x21\x23-\x7e\x80-\xff]*")\s*(?:,|$)')


def etag_of(content: bytes) -> str:
    """Return a strong ETag: equal for equal bytes."""
    return f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'


def is_unchanged(headers: Headers, etag: str, modified: datetime | None = None) -> bool:
    """Return whether the client has the response already, so that 304 answers the request."""
    given = headers.getlist("if-none-match")
    if given:
        return _names(", ".join(given), etag)
    since = _date(headers.get("if-modified-since", "")) if modified is not None else None
    return since is not None and modified is not None and modified <= since


def is_another(headers: Headers, etag: str, modified: datetime) -> bool:
    """Return whether the client wants another version than this one, so that 412 answers the request."""
    given = headers.getlist("if-match")
    if given:
        return not _names(", ".join(given), etag, weak=False)
    since = _date(headers.get("if-unmodified-since", ""))
    return since is not None and modified > since


def has_condition(headers: Headers) -> bool:
    """Return whether a change is wanted only if nothing else has changed."""
    return headers.get("if-match", "*").strip() != "*" or "if-unmodified-since" in headers


def allows_range(headers: Headers, etag: str, modified: datetime) -> bool:
    """Return whether the condition of a range holds: the client has a part of the same file, or set no condition."""
    condition = headers.get("if-range")
    if condition is None:
        return True
    # A weak ETag never matches here.
    return condition.strip() == etag or _date(condition) == modified


def _names(header: str, etag: str, *, weak: bool = True) -> bool:
    """Return whether a header `*` or a list of ETags has this one. `weak` compares weak and strong ETags alike."""
    if header.strip() == "*":
        return True
    position = 0
    while found := _TAG.match(header, position):
        if found[2] == etag and (weak or not found[1]):
            return True
        position = found.end()
    return False


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return found if found.tzinfo is not None else None
