"""What every request passes before and behind the routes: limits, names for logs, one line in the log, and times.

Invariant: no body is read beyond its limit, no answer leaves without an X-Request-Id, and an error that did not become
a problem document elsewhere does here.
"""

import logging
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.service.api.meters import Meters
from orchestrator.service.api.problems import MEDIA_TYPE, ProblemError, problem_response
from orchestrator.service.api.settings import ApiSettings
from orchestrator.service.observability.json_log import job_id_of_path, log_context
from orchestrator.service.observability.tracing import Tracing

_log = logging.getLogger("orchestrator.service.store.access")
_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
_MOST_TARGET_BYTES = 8192


class RequestGate:
    """ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp, settings: ApiSettings, meters: Meters, tracing: Tracing | None = None) -> None:
        self._app, self._settings, self._meters, self._tracing = app, settings, meters, tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        passage = _Passage(scope, receive, send, self._settings.most_body_bytes)
        started = time.perf_counter()
        if self._tracing is None:
            await self._within(scope, receive, passage, started)
            return
        with self._tracing.request(scope["method"], Headers(scope=scope)) as span:
            await self._within(scope, receive, passage, started)
            span.update_name(f"{scope['method']} {_route(scope)}")
            span.set_attributes(
                {
                    "http.request.method": scope["method"],
                    "http.route": _route(scope),
                    "http.response.status_code": passage.status,
                    "earshot.job": job_id_of_path(scope["path"]) or "",
                    "earshot.request": passage.id,
                }
            )

    async def _within(self, scope: Scope, receive: Receive, passage: "_Passage", started: float) -> None:
        with log_context(request=passage.id, job=job_id_of_path(scope["path"])):
            try:
                refusal = _refusal(scope, self._settings.most_body_bytes)
                if refusal is not None:
                    await problem_response(*refusal)(scope, receive, passage.send)
                else:
                    await self._pass(scope, passage)
            finally:
                self._note(scope, passage, time.perf_counter() - started)

    async def _pass(self, scope: Scope, passage: "_Passage") -> None:
        try:
            await self._app(scope, passage.receive, passage.send)
        except Exception:
            # Starlette has answered with the handler for bugs, and raises what it handled for the server to see.
            _log.exception("a request failed")
            if not passage.status:
                await problem_response(500, "an error of the service")(scope, passage.receive, passage.send)

    def _note(self, scope: Scope, passage: "_Passage", seconds: float) -> None:
        route = _route(scope)
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._meters.requests.labels(method, route, str(passage.status)).inc()
        if not passage.streamed:
            self._meters.seconds.labels(method, route).observe(seconds)
        principal = scope.get("state", {}).get("principal")
        _log.info(
            "request",
            extra={
                "method": method,
                "path": scope["path"][:200],
                "status": passage.status,
                "milliseconds": round(1000 * seconds, 2),
                "user": principal.owner if principal is not None else None,
                "client": (scope.get("client") or ["?"])[0],
            },
        )


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"})


def _route(scope: Scope) -> str:
    """The route's pattern and not the path, of which there are as many as somebody likes."""
    return getattr(scope.get("route"), "path", "none")


def _refusal(scope: Scope, most_body: int) -> tuple[int, str] | None:
    """Status and detail for what no route should see."""
    target = scope["path"].encode(errors="surrogateescape") + scope.get("query_string", b"")
    if len(target) > _MOST_TARGET_BYTES:
        return 414, f"path and query may have {_MOST_TARGET_BYTES} bytes"
    if b"\0" in target or b"%00" in scope.get("query_string", b"") or "\ufffd" in scope["path"]:
        return 400, "the path or query holds a zero byte, or is no UTF-8"
    length = Headers(scope=scope).get("content-length", "0")
    if not length.isascii() or not length.isdigit():
        return 400, "Content-Length is no number"
    if int(length[:20]) > most_body:
        return 413, f"the body may have {most_body} bytes"
    return None


class _Passage:
    """One request on its way through."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, most_body: int) -> None:
        self.id = uuid.uuid4().hex
        self.status = 0
        self.streamed = False
        self._scope, self._receive, self._send = scope, receive, send
        self._most = self._left = most_body
        self._replaced = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                raise ProblemError(413, f"the body may have {self._most} bytes")
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
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

    async def _replace(self, headers: MutableHeaders) -> None:
        """Answer with a problem document in place of what a part of the framework says."""
        self._replaced = True
        kept = {name: headers[name] for name in ("content-range", "allow") if name in headers}
        response = problem_response(self.status, "see the status", headers=kept)
        start: Message = {"type": "http.response.start", "status": self.status, "headers": response.raw_headers}
        self._complete(MutableHeaders(scope=start))
        await self._send(start)
        await self._send({"type": "http.response.body", "body": response.body})

    def _complete(self, headers: MutableHeaders) -> None:
        headers["X-Request-Id"] = self.id
        for name, value in _HEADERS.items():
            headers.setdefault(name, value)
