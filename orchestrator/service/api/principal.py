"""Who makes a request, and what they may do.

Invariant: without a valid token nobody is anybody, but for the local user of a service that listens on loopback only; a
job of somebody else's does not exist for whoever is no admin.
"""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from orchestrator.service.api.problems import ProblemError
from orchestrator.service.api.state import Api, api_of
from orchestrator.service.store.access import Role
from orchestrator.service.store.credentials import token_hash
from orchestrator.service.store.records import JobRecord

_bearer = HTTPBearer(auto_error=False, description="A token of `earshot token create`; needed beyond loopback.")
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_LOOPBACK_ADDRESSES = frozenset({"127.0.0.1", "::1", "::ffff:127.0.0.1"})
_ORDER = (Role.VIEWER, Role.SUBMITTER, Role.ADMIN)


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody."""

    owner: str
    """Whose jobs are theirs."""
    role: Role

    def sees(self, job: JobRecord) -> bool:
        """Whether the job exists for them."""
        return self.role is Role.ADMIN or job.owner == self.owner

    def may(self, role: Role) -> bool:
        """Whether they may do what a role allows."""
        return _ORDER.index(self.role) >= _ORDER.index(role)


LOCAL = Principal("local", Role.ADMIN)


async def current(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    api: Annotated[Api, Depends(api_of)],
) -> Principal:
    """Who makes the request. Raises ProblemError."""
    principal = await _identified(request, credentials, api)
    if wait := api.rate.take(principal.owner):
        raise ProblemError(429, f"too many requests; wait {wait:.1f} s", headers={"Retry-After": str(int(wait) + 1)})
    request.state.principal = principal
    return principal


async def _identified(request: Request, credentials: HTTPAuthorizationCredentials | None, api: Api) -> Principal:
    if "authorization" not in request.headers:
        if api.settings.local and _is_local(request):
            return LOCAL
        raise _refused(request, api, "send a token: Authorization: Bearer earshot_…")
    if credentials is None:
        raise _refused(request, api, "the Authorization header is not 'Bearer TOKEN'")
    # The store compares hashes: how long that takes tells nothing of a token, whose hash nobody can choose.
    token = await api.store.find_token(token_hash(credentials.credentials))
    if token is None:
        raise _refused(request, api, "the token is not valid: unknown, revoked or expired")
    return Principal(token.owner, token.role)


def _refused(request: Request, api: Api, detail: str) -> ProblemError:
    if wait := api.refusals.take(_address(request)):
        return ProblemError(
            429,
            f"too many requests without a valid token; wait {wait:.1f} s",
            headers={"Retry-After": str(int(wait) + 1)},
        )
    return ProblemError(401, detail, headers={"WWW-Authenticate": "Bearer"})


def _address(request: Request) -> str:
    return request.client.host if request.client else "?"


def _is_local(request: Request) -> bool:
    """Whether a program of this machine asks, and not a web page in its browser or somebody behind a proxy on it."""
    headers = request.headers
    host = headers.get("host", "")
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    origin = headers.get("origin")
    return (
        _address(request) in _LOOPBACK_ADDRESSES
        and name.lower() in _LOOPBACK_NAMES
        and not {"x-forwarded-for", "forwarded", "via"} & set(headers.keys())
        and (origin is None or origin.lower() in {f"http://{host.lower()}", f"https://{host.lower()}"})
        and headers.get("sec-fetch-site", "none") in {"none", "same-origin"}
    )


Current = Annotated[Principal, Depends(current)]


def require(principal: Principal, role: Role) -> None:
    """Raise ProblemError unless somebody may do what a role allows."""
    if not principal.may(role):
        raise ProblemError(403, f"this takes the role {role}; this token's is {principal.role}")
