"""A line of a file as one line of a stream.

Some readers take a line to end where Unicode says so, not only where HTML's server-sent events say so: none of these
characters is left as it is.
"""

import re

_JSON_ESCAPES = {"\x85".encode(): rb"\u0085", "\u2028".encode(): rb"\u2028", "\u2029".encode(): rb"\u2029"}
# Of a terminal: colours and where to write; and everything that steers one.
_TERMINAL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


def json_line(line: bytes) -> bytes:
    """The same JSON document, without a character at which a line may be taken to end."""
    for character, escape in _JSON_ESCAPES.items():
        line = line.replace(character, escape)
    return line


def log_text(line: bytes) -> str:
    """A line of a log as text without characters that steer a terminal. What a progress bar overwrote is left out."""
    return _TERMINAL.sub("", line.decode(errors="replace").rstrip("\r").rpartition("\r")[2])


def log_line(line: bytes) -> bytes:
    """Likewise, for a stream."""
    return log_text(line).encode()
