"""HEAD, OPTIONS and conditional requests, for every route alike.

Invariants: HEAD has the status and the headers of GET, and no body; 405 and OPTIONS name all methods of the path; a GET
of JSON or a page has an ETag, and answers 304 to a client that has the same bytes; a change that depends on an ETag or
a date is not made; a redirection names no host, as the client may know the service by another name and over TLS.
"""

from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.schemas.problem_code import ProblemCode
from orchestrator.service.api.problems import problem_response
from orchestrator.service.api.replies.head import as_get, is_head
from orchestrator.service.api.replies.validators import etag_of, has_condition, is_unchanged

_WITH_ETAG = ("application/json", "text/html")
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_NO_CONDITION = "changes of this service depend on no ETag or date; send them without If-Match and If-Unmodified-Since"
_NEVER_CACHED = frozenset({"/healthz", "/readyz"})
_KEPT = (b"cache-control", b"vary", b"etag", b"content-location", b"expires")
"""Headers of a response that 304 repeats."""


class MethodsOfRoutes:
    """ASGI middleware inside the gate."""

    def __init__(self, app: ASGIApp, routes: Callable[[], Sequence[BaseRoute]]) -> None:
        self._app, self._routes = app, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # One dictionary for both scopes: the routes leave there what the gate logs.
        scope.setdefault("state", {})
        allowed = _methods(self._routes(), scope) if scope["method"] == "OPTIONS" else set()
        if allowed:
            await Response(status_code=204, headers={"Allow": _listed(allowed)})(scope, receive, send)
            return
        if scope["method"] not in _READS and has_condition(Headers(scope=scope)):
            await problem_response(ProblemCode.PRECONDITION_FAILED, _NO_CONDITION)(scope, receive, send)
            return
        reply = _Reply(scope, as_get(scope), self._routes, send)
        await self._app(reply.inner, receive, reply.send)


def _methods(routes: Sequence[BaseRoute], scope: Scope) -> set[str]:
    """Return the methods of all routes with this path; the empty set if there is none."""
    found: set[str] = set()
    for route in routes:
        if isinstance(route, Route) and route.matches(dict(scope))[0] is not Match.NONE:
            found |= route.methods or set()
    return found | {"OPTIONS"} | ({"HEAD"} if "GET" in found else set()) if found else found


def _listed(methods: set[str]) -> str:
    return ", ".join(sorted(methods))


class _Reply:
    """The response to one request."""

    def __init__(self, scope: Scope, inner: Scope, routes: Callable[[], Sequence[BaseRoute]], send: Send) -> None:
        self._scope, self.inner, self._routes, self._send = scope, inner, routes, send
        self._held: Message | None = None
        self._ended = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._scope["route"] = self.inner.get("route")
            await self._start(message)
        elif not self._ended:
            await self._body(message)

    async def _start(self, message: Message) -> None:
        headers = MutableHeaders(scope=message)
        if message["status"] == 405:
            headers["allow"] = _listed(_methods(self._routes(), self.inner))
        elif message["status"] == 307:
            headers["location"] = urlsplit(headers["location"])._replace(scheme="", netloc="").geturl()
        if self._takes_etag(message["status"], headers):
            self._held = message
        else:
            await self._send(message)

    def _takes_etag(self, status: int, headers: MutableHeaders) -> bool:
        kind = headers.get("content-type", "").partition(";")[0]
        return (
            status == 200
            and self.inner["method"] == "GET"
            and kind in _WITH_ETAG
            and "cache-control" not in headers
            and self._scope["path"] not in _NEVER_CACHED
        )

    async def _body(self, message: Message) -> None:
        if self._held is not None:
            start, self._held = self._held, None
            if not message.get("more_body", False) and self._is_unchanged(start, message.get("body", b"")):
                message = {**message, "body": b""}
            await self._send(start)
        if is_head(self.inner):
            self._ended = True
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    def _is_unchanged(self, start: Message, body: bytes) -> bool:
        """Add the ETag of the body. If the client has it, turn the response into 304 and return True."""
        headers = MutableHeaders(scope=start)
        headers["etag"] = etag_of(body)
        headers["cache-control"] = "private, no-cache"
        headers.add_vary_header("Authorization")
        if not is_unchanged(Headers(scope=self._scope), headers["etag"]):
            return False
        start["status"] = 304
        start["headers"] = [(name, value) for name, value in start["headers"] if name.lower() in _KEPT]
        return True
