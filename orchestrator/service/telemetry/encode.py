"""Encode a line of a file as one line of an event stream.

Some clients split lines at every Unicode line break, not only at those of server-sent events: such characters are
escaped or removed.
"""

import re

_JSON_ESCAPES = {"\x85".encode(): rb"\u0085", "\u2028".encode(): rb"\u2028", "\u2029".encode(): rb"\u2029"}
# Control sequences of a terminal (colours, cursor), and all other control characters.
_TERMINAL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


def json_line(line: bytes) -> bytes:
    """Return the same JSON document with Unicode line breaks escaped."""
    for character, escape in _JSON_ESCAPES.items():
        line = line.replace(character, escape)
    return line


def log_text(line: bytes) -> str:
    """Return a line of a log without control characters, and without what a progress bar overwrote."""
    return _TERMINAL.sub("", line.decode(errors="replace").rstrip("\r").rpartition("\r")[2])


def log_line(line: bytes) -> bytes:
    """Return `log_text` as bytes for a stream."""
    return log_text(line).encode()
