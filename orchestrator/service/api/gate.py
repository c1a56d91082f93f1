"""The outermost layer of the app: request limits, request ids, the request log, metrics and spans.

Invariant: no body is read beyond its limit, every response has an X-Request-Id, and every error response is a problem
document.
"""

import logging
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.schemas.problem_code import ProblemCode
from orchestrator.service.api.meters import Meters
from orchestrator.service.api.problems import MEDIA_TYPE, SAFE_HEADERS, ProblemError, code_of, problem_response
from orchestrator.service.api.settings import ApiSettings
from orchestrator.service.observability.json_log import job_id_of_path, log_context
from orchestrator.service.observability.tracing import Tracing

_log = logging.getLogger("orchestrator.service.store.access")
_MAX_TARGET_BYTES = 8192


class RequestGate:
    """ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp, settings: ApiSettings, meters: Meters, tracing: Tracing | None = None) -> None:
        """`tracing` must instrument the gate: the gate names the spans."""
        self._app, self._settings, self._meters, self._tracing = app, settings, meters, tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._settings.max_body_bytes, self._tracing)
        started = time.perf_counter()
        with log_context(request=exchange.id, job=exchange.job):
            try:
                refusal = _refusal(scope, self._settings)
                if refusal is not None:
                    await problem_response(*refusal)(scope, receive, exchange.send)
                else:
                    await self._run_app(scope, exchange)
            finally:
                self._record(scope, exchange, time.perf_counter() - started)

    async def _run_app(self, scope: Scope, exchange: "_Exchange") -> None:
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except Exception:
            # Starlette's handler for unexpected errors has answered already, and raises them for the server to log.
            _log.exception("a request failed")
            if not exchange.status:
                await problem_response(ProblemCode.INTERNAL_ERROR, "an internal error")(
                    scope, exchange.receive, exchange.send
                )

    def _record(self, scope: Scope, exchange: "_Exchange", seconds: float) -> None:
        route = _route(scope)
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._meters.requests.labels(method, route, str(exchange.status)).inc()
        if not exchange.streamed:
            self._meters.seconds.labels(method, route).observe(seconds)
        principal = scope.get("state", {}).get("principal")
        _log.info(
            "request",
            extra={
                "method": method,
                "path": scope["path"][:200],
                "status": exchange.status,
                "milliseconds": round(1000 * seconds, 2),
                "user": principal.owner if principal is not None else None,
                "client": (scope.get("client") or ["?"])[0],
            },
        )


_SINGLE = frozenset(
    {b"host", b"authorization", b"content-length", b"content-type", b"idempotency-key", b"last-event-id"}
)
"""Headers of which two programs could read another value, if they were given twice."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"})


def _route(scope: Scope) -> str:
    """Return the pattern of the route: paths are unbounded in number, and metrics have a label for the route."""
    return getattr(scope.get("route"), "path", "none")


def _refusal(scope: Scope, settings: ApiSettings) -> tuple[ProblemCode, str] | None:
    """Return code and detail for a request that must not reach any route."""
    target = scope["path"].encode(errors="surrogateescape") + scope.get("query_string", b"")
    if len(target) > _MAX_TARGET_BYTES:
        return ProblemCode.TARGET_TOO_LONG, f"path and query may have at most {_MAX_TARGET_BYTES} bytes"
    if b"\0" in target or b"%00" in scope.get("query_string", b"") or "\ufffd" in scope["path"]:
        return ProblemCode.MALFORMED_REQUEST, "the path or query contains a zero byte, or is not UTF-8"
    size = len(target) + sum(len(name) + len(value) for name, value in scope["headers"])
    if size > settings.max_head_bytes or len(scope["headers"]) > settings.max_headers:
        limits = f"{settings.max_headers} headers, of {settings.max_head_bytes} bytes in total"
        return ProblemCode.HEADERS_TOO_LARGE, f"a request may have at most {limits}"
    return _head_refusal(scope, settings)


def _head_refusal(scope: Scope, settings: ApiSettings) -> tuple[ProblemCode, str] | None:
    names = [name for name, _ in scope["headers"] if name in _SINGLE]
    repeated = sorted({name.decode() for name in names if names.count(name) > 1})
    if repeated:
        return ProblemCode.MALFORMED_REQUEST, f"the header {repeated[0]} is given twice; send it once"
    if b"host" not in names and scope["http_version"] == "1.1":
        return ProblemCode.MALFORMED_REQUEST, "the header Host is missing, which requests of HTTP/1.1 must have"
    length = Headers(scope=scope).get("content-length", "0")
    if not length.isascii() or not length.isdigit():
        return ProblemCode.MALFORMED_REQUEST, "Content-Length is not a number"
    if int(length[:20]) > settings.max_body_bytes:
        return ProblemCode.BODY_TOO_LARGE, f"the body may have at most {settings.max_body_bytes} bytes"
    return None


class _Exchange:
    """One request and its response."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, max_body: int, tracing: Tracing | None) -> None:
        self.id = uuid.uuid4().hex
        self.job = job_id_of_path(scope["path"])
        self.status = 0
        self.streamed = False
        self._scope, self._receive, self._send, self._tracing = scope, receive, send, tracing
        self._max = self._left = max_body
        self._replaced = False
        self._sends_body = scope["method"] not in {"GET", "HEAD"}

    async def receive(self) -> Message:
        message = await self._receive()
        if refusal := self._scope.get("state", {}).get("refusal"):
            raise ProblemError(*refusal, headers={"Connection": "close"})
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                raise ProblemError(ProblemCode.BODY_TOO_LARGE, f"the body may have at most {self._max} bytes")
            self._sends_body = self._sends_body and message.get("more_body", False)
        elif self._sends_body and not self.status:
            raise ProblemError(ProblemCode.MALFORMED_REQUEST, "the client left before the whole body had arrived")
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._annotate_span()
            headers = MutableHeaders(scope=message)
            kind = headers.get("content-type", "")
            self.streamed = kind.startswith("text/event-stream")
            if self.status >= 400 and not kind.startswith(MEDIA_TYPE):
                await self._replace(headers)
                return
            self._complete(headers)
        elif self._replaced:
            return
        await self._send(message)

    def _annotate_span(self) -> None:
        if self._tracing is not None:
            route = _route(self._scope)
            attributes = {"http.route": route, "earshot.job": self.job or "", "earshot.request": self.id}
            self._tracing.annotate(f"{self._scope['method']} {route}", attributes)

    async def _replace(self, headers: MutableHeaders) -> None:
        """Send a problem document instead of the framework's own error response."""
        self._replaced = True
        kept = {name: headers[name] for name in ("content-range", "allow") if name in headers}
        response = problem_response(code_of(self.status), "see the status code", status=self.status, headers=kept)
        start: Message = {"type": "http.response.start", "status": self.status, "headers": response.raw_headers}
        self._complete(MutableHeaders(scope=start))
        await self._send(start)
        await self._send({"type": "http.response.body", "body": response.body})

    def _complete(self, headers: MutableHeaders) -> None:
        headers["X-Request-Id"] = self.id
        for name, value in SAFE_HEADERS.items():
            headers.setdefault(name, value)
