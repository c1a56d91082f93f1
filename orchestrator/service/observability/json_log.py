"""The log of the service: one JSON object per line on stderr, with the job and the request that it concerns.

Invariant: no line contains a token; whatever looks like one is redacted, no matter who logs it.
"""

import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO

from orchestrator.run.records import json_text
from orchestrator.schemas.job_id import JOB_ID

_context: ContextVar[dict[str, str]] = ContextVar("log_context", default={})  # noqa: B039  # replaced, never mutated
_JOB_PATH = re.compile(rf"^/v1/jobs/({JOB_ID})(?:/|$)")
_TOKEN = re.compile(r"earshot_[A-Za-z0-9_-]{8,}|(?i:bearer)\s+[^\s\"\\]+")
_URL_PASSWORD = re.compile(r"(://[^:/@\s\"]+):[^@/\s\"]+@")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}


@contextmanager
def log_context(**names: str | None) -> Iterator[None]:
    """Add names such as `job` and `request` to everything logged inside the context, including awaited code."""
    token = _context.set(_context.get() | {name: value for name, value in names.items() if value is not None})
    try:
        yield
    finally:
        _context.reset(token)


def job_id_of_path(path: str) -> str | None:
    """Return the job id in the path of a request, if any."""
    found = _JOB_PATH.match(path)
    return found[1] if found else None


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_context.get(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD and name[0] != "_"}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        try:
            text = json_text(line)
        except TypeError:
            text = json.dumps(line, default=str)
        return _URL_PASSWORD.sub(r"\1:…@", _TOKEN.sub("…", text))


def log_as_json(level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Write everything that this process logs to `stream`, by default stderr, as JSON."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    # The request gate logs every request with more detail.
    logging.getLogger("uvicorn.access").disabled = True
