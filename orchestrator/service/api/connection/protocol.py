"""HTTP on one connection, with limits on what a client may send, how long it may take, and what it leaves unread.

Invariants: the bytes of a request that are held, or spent on its framing, are bounded before they are parsed; a request
that does not arrive in time ends; responses are sent in the order of their requests; and a connection that the service
ends gets a problem document first, wherever no other response is on its way.
"""

import asyncio
import enum
import math
import sys
import uuid
from typing import Any, ClassVar

import httptools
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from orchestrator.schemas.problem_code import ProblemCode
from orchestrator.service.api.connection.open_connections import OpenConnections
from orchestrator.service.api.connection.peer import Peer, peer_of_connection
from orchestrator.service.api.problems import SAFE_HEADERS, problem_response
from orchestrator.service.api.settings import ApiSettings

_READ_BYTES = 16 * 1024
"""Read at once: what a client sends is parsed in pieces that do not delay other requests."""
_LINGER_SECONDS = 2.0
"""Time for a client to read the last response while the rest of its request is discarded. Closing a socket with unread
data would destroy the response."""
_MOST_PIPELINED = 8
"""Requests that may wait on a connection for the response to an earlier one."""
_SWITCH_SECONDS = 0.001
"""Longest time that a thread of the service computes while the event loop waits; Python's default is 5 ms."""
_buffer = bytearray(_READ_BYTES)
# Each read is parsed before the next one, on whichever connection.
_view = memoryview(_buffer)


class _Stage(enum.Enum):
    BETWEEN = enum.auto()
    """Between two requests, or before the first one."""
    HEAD = enum.auto()
    BODY = enum.auto()
    REFUSED = enum.auto()
    """Everything that arrives is discarded."""


class BoundedProtocol(HttpToolsProtocol, asyncio.BufferedProtocol):
    """uvicorn's protocol within the limits of the settings."""

    settings: ClassVar[ApiSettings]
    open: ClassVar[OpenConnections]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.peer = Peer("unknown", local=False)
        self._stage = _Stage.BETWEEN
        self._moved = False
        self._bytes = 0
        self._due = math.inf
        self._running: RequestResponseCycle | None = None
        self._ended = False
        self._output: _Output

    # The transport's side

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._output = _Output(self, transport)
        self.peer = peer_of_connection(self.client, self.server)  # type: ignore[arg-type]
        self._due = self.loop.time() + self.settings.head_seconds
        beyond = self.open.add(self)
        if beyond is not None and not transport.is_closing():
            self._send_problem(ProblemCode.TOO_MANY_CONNECTIONS, beyond, {"Retry-After": "5"})

    def connection_lost(self, exc: Exception | None) -> None:
        self.open.remove(self)
        super().connection_lost(exc)
        # uvicorn tells the newest request only, while an earlier one may be running.
        if self._running is not None:
            self._running.disconnected = True
            self._running.message_event.set()
        self.pipeline.clear()
        self._unset_keepalive_if_required()

    def get_buffer(self, sizehint: int) -> memoryview:
        return _view

    def buffer_updated(self, nbytes: int) -> None:
        if self._stage is not _Stage.REFUSED:
            self.data_received(bytes(_view[:nbytes]))

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._stage is _Stage.BETWEEN and not self._bytes:
            self._due = self.loop.time() + self.settings.head_seconds
        self._moved = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self._refuse(ProblemCode.MALFORMED_REQUEST, "this is not a valid request of HTTP/1.1")
        except httptools.HttpParserUpgrade:
            # The response names no other protocol: the client has to use this one, on a new connection.
            self.cycle.keep_alive, self._stage = False, _Stage.REFUSED
        if not self._moved:
            self._bytes += len(data)
        self._check_bytes()

    def _check_bytes(self) -> None:
        settings = self.settings
        if self._stage in {_Stage.HEAD, _Stage.BETWEEN} and self._bytes > settings.max_head_bytes:
            detail = f"the request line and the headers may have at most {settings.max_head_bytes} bytes"
            self._refuse(ProblemCode.HEADERS_TOO_LARGE, detail)
        elif self._stage is _Stage.BODY and self._bytes > settings.max_body_bytes + settings.max_head_bytes:
            detail = f"the body may have at most {settings.max_body_bytes} bytes, and few more for chunks and trailers"
            self._refuse(ProblemCode.BODY_TOO_LARGE, detail)

    # The parser's side

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._enter(_Stage.HEAD)
        self._due = self.loop.time() + self.settings.head_seconds
        self.scope["state"]["peer"] = self.peer

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers come after the request has been started with its headers. One header too many is enough to refuse it.
        if self._stage is _Stage.HEAD and len(self.headers) <= self.settings.max_headers:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= _MOST_PIPELINED:
            raise ValueError("too many requests wait on this connection")
        super().on_headers_complete()
        self.cycle.transport = self._output  # type: ignore[assignment]
        self._enter(_Stage.BODY)
        self._due = self.loop.time() + self.settings.body_seconds

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._enter(_Stage.BETWEEN)
        # A response that was sent before the whole request had arrived does not start the time of an idle connection.
        answered = self.cycle.response_complete
        self._due = self.loop.time() + self.timeout_keep_alive if answered else math.inf

    def _enter(self, stage: _Stage) -> None:
        self._stage, self._moved, self._bytes = stage, True, 0

    # The application's side

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        if self._ended:
            self.server_state.total_requests += 1
        else:
            super().on_response_complete()

    # Ends

    def check(self, now: float) -> None:
        """End the connection if its request or its reader is late."""
        if self._output.is_stalled(now, self.settings.unread_seconds):
            self.abort("unread")
        elif now > self._due:
            self._end_late(now)

    def _end_late(self, now: float) -> None:
        if self._stage is _Stage.REFUSED:
            self.abort("")
        elif self.flow.read_paused:
            # The service has not read on.
            self._due = now + self.settings.body_seconds
        elif self._stage is _Stage.BETWEEN and not self._bytes:
            self.open.count_end("idle")
            self.transport.close()
        else:
            seconds = self.settings.body_seconds if self._stage is _Stage.BODY else self.settings.head_seconds
            part = "body" if self._stage is _Stage.BODY else "request line and the headers"
            detail = f"the {part} did not arrive within {seconds:g} s; send the request again"
            self._refuse(ProblemCode.REQUEST_TOO_SLOW, detail)

    def abort(self, reason: str) -> None:
        """Close the connection without a response."""
        if reason:
            self.open.count_end(reason)
        self.transport.abort()

    def unsent_bytes(self) -> int:
        """Return the size of what the client has not taken yet."""
        return self.transport.get_write_buffer_size()

    def finish(self) -> None:
        """Close the connection after the last response; a client that is still sending can read it first."""
        self._ended = True
        if self._stage is _Stage.BETWEEN or self.transport.is_closing():
            self.transport.close()
            return
        self._stage, self._due = _Stage.REFUSED, self.loop.time() + _LINGER_SECONDS
        self.flow.resume_reading()
        self.transport.write_eof()

    def _refuse(self, code: ProblemCode, detail: str) -> None:
        """Read no more of the connection; answer the request that has been refused, after those before it."""
        stage, self._stage = self._stage, _Stage.REFUSED
        now = self.loop.time()
        self._due = now + _LINGER_SECONDS
        if stage is _Stage.BODY and not self.cycle.response_complete:
            # The application answers it when it reads the body.
            self.open.count_end(code)
            self.cycle.scope["state"]["refusal"] = code, detail
            self.cycle.message_event.set()
            if self.cycle is not self._running:
                self._due = now + self.settings.body_seconds
        elif self._running is not None and not self._running.response_complete:
            self.open.count_end(code)
            self._due = math.inf
            last = self.pipeline[0][0] if self.pipeline else self._running
            last.keep_alive = False
        elif stage is _Stage.BODY:
            self.open.count_end(code)
            self.finish()
        else:
            self._send_problem(code, detail)

    def _send_problem(self, code: ProblemCode, detail: str, headers: dict[str, str] | None = None) -> None:
        """Answer a request that no application has seen, and end the connection."""
        self.open.count_end(code)
        more = {"Connection": "close", "X-Request-Id": uuid.uuid4().hex, **SAFE_HEADERS, **(headers or {})}
        response = problem_response(code, detail, headers=more)
        lines = [*self.server_state.default_headers, *response.raw_headers]
        self._output.write(
            STATUS_LINE[response.status_code]
            + b"".join(b"%s: %s\r\n" % line for line in lines)
            + b"\r\n"
            + bytes(response.body)
        )
        self._stage = _Stage.REFUSED
        self.finish()


class _Output:
    """The writing side of a transport, as the responses use it."""

    def __init__(self, protocol: BoundedProtocol, transport: asyncio.Transport) -> None:
        self._protocol, self._transport = protocol, transport
        self._written = self._taken = 0
        self._since: float | None = None

    def write(self, data: bytes) -> None:
        """Send bytes."""
        self._written += len(data)
        self._transport.write(data)

    def is_closing(self) -> bool:
        """Return whether nothing can be sent any more."""
        return self._transport.is_closing()

    def close(self) -> None:
        """End the connection after what was sent."""
        self._protocol.finish()

    def is_stalled(self, now: float, seconds: float) -> bool:
        """Return whether bytes wait to be sent, and none could be for this time."""
        left = self._transport.get_write_buffer_size()
        taken = self._written - left
        if not left or taken > self._taken or self._since is None:
            self._taken, self._since = taken, now if left else None
            return False
        return now - self._since > seconds


def server_config(app: FastAPI, **more: Any) -> uvicorn.Config:
    """Return the configuration of a server whose connections have the limits of the app's settings.

    The process is to serve from now on: its threads leave the interpreter to the event loop sooner than usual.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    context = app.state.context
    limits = {"settings": context.settings, "open": OpenConnections(context.settings, context.meters)}
    return uvicorn.Config(
        app,
        http=type("LimitedProtocol", (BoundedProtocol,), limits),
        ws="none",
        log_config=None,
        access_log=False,
        # A header does not decide whose address a request has: anyone can send one.
        proxy_headers=False,
        **more,
    )
