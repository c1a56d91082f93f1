"""Trust in requests without a token, if they come from the user who started the service.

Invariant: it does only if a process of that user sent it, directly, to a service that listens on loopback: not another
user of the machine (root neither), not a web page in a browser, and not a client of a proxy.
"""

from fastapi import Request

from audio_qa.errors import shown
from orchestrator.service.api.connection.peer import Peer

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_NAMES = frozenset(
    {"via", "cdn-loop", "max-forwards", "front-end-https", "x-scheme", "x-url-scheme", "x-original-host"}
    | {"x-original-url", "x-original-uri", "x-amzn-trace-id", "x-arr-ssl"}
)
_BEGINNINGS = ("x-proxy", "x-envoy-", "cf-", "fastly-", "x-azure-", "x-appengine-")
_ENDS = ("client-ip", "clientip", "real-ip", "remote-ip", "remote-addr", "user-ip", "connecting-ip", "originating-ip")


def reason_for_distrust(request: Request, peer: Peer) -> str | None:
    """Return why the request does not come from the user who started the service, or None if it does."""
    return _proxy(request) or _web_page(request) or _other_user(peer)


def _proxy(request: Request) -> str | None:
    for header in request.headers:
        name = header.replace("_", "-")
        if "forwarded" in name or name in _NAMES or name.startswith(_BEGINNINGS) or name.endswith(_ENDS):
            return f"the header {shown(header)} says that a proxy sent the request"
    if request.scope.get("http_version") != "1.1":
        return "requests of HTTP/1.0 may come from a proxy"
    return None


def _web_page(request: Request) -> str | None:
    headers = request.headers
    host = headers.get("host", "").lower()
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    if name not in _LOOPBACK_NAMES:
        return "the header Host does not name this machine as localhost or 127.0.0.1"
    origin = headers.get("origin")
    if origin is not None and origin.lower() not in {f"http://{host}", f"https://{host}"}:
        return "the request comes from a web page"
    if headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
        return "the request comes from a web page"
    return None


def _other_user(peer: Peer) -> str | None:
    if not peer.local:
        return "the request comes from another machine"
    if peer.uid is None:
        return "the system does not say which user sent the request"
    return None if peer.is_own_user else "another user of this machine sent the request"
