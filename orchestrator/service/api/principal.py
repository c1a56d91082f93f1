"""Authentication and authorization: the principal of a request and its permissions.

Invariant: requests without a valid token have no identity, except the local user of a service that listens on loopback
only; to anyone but its owner and admins, a job does not exist.
"""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from orchestrator.schemas.problem_code import ProblemCode
from orchestrator.service.api.problems import ProblemError
from orchestrator.service.api.state import ApiContext, api_context
from orchestrator.service.store.access import Role
from orchestrator.service.store.credentials import token_hash
from orchestrator.service.store.records import JobRecord

_bearer = HTTPBearer(auto_error=False, description="A token from `earshot token create`; optional on loopback.")
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_LOOPBACK_ADDRESSES = frozenset({"127.0.0.1", "::1", "::ffff:127.0.0.1"})
_ORDER = (Role.VIEWER, Role.SUBMITTER, Role.ADMIN)


@dataclass(frozen=True, slots=True)
class Principal:
    """The user who sent a request."""

    owner: str
    """Owner of the jobs that this principal submits and may see."""
    role: Role

    def can_see(self, job: JobRecord) -> bool:
        """Return whether the job is visible: their own, or any job for an admin."""
        return self.role is Role.ADMIN or job.owner == self.owner

    def has_role(self, role: Role) -> bool:
        """Return whether their role is this one or a higher one."""
        return _ORDER.index(self.role) >= _ORDER.index(role)


LOCAL = Principal("local", Role.ADMIN)


async def current_principal(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    context: Annotated[ApiContext, Depends(api_context)],
) -> Principal:
    """Return the principal of the request. Raises ProblemError."""
    principal = await _authenticate(request, credentials, context)
    if wait := context.rate.take(principal.owner):
        raise ProblemError(
            ProblemCode.RATE_LIMITED,
            f"too many requests; retry after {wait:.1f} s",
            headers={"Retry-After": str(int(wait) + 1)},
        )
    request.state.principal = principal
    return principal


async def _authenticate(
    request: Request, credentials: HTTPAuthorizationCredentials | None, context: ApiContext
) -> Principal:
    if "authorization" not in request.headers:
        if context.settings.local and _is_local(request):
            return LOCAL
        raise _unauthorized(
            request,
            context,
            ProblemCode.TOKEN_REQUIRED,
            "a token is required; send the header Authorization: Bearer earshot_…",
        )
    if credentials is None:
        raise _unauthorized(
            request, context, ProblemCode.TOKEN_INVALID, "the Authorization header is not 'Bearer TOKEN'"
        )
    # The store compares hashes. Nobody can choose a token's hash, so the time it takes reveals nothing about the token.
    token = await context.store.find_token(token_hash(credentials.credentials))
    if token is None:
        raise _unauthorized(
            request, context, ProblemCode.TOKEN_INVALID, "the token is not valid: unknown, revoked or expired"
        )
    return Principal(token.owner, token.role)


def _unauthorized(request: Request, context: ApiContext, code: ProblemCode, detail: str) -> ProblemError:
    if wait := context.refusals.take(_address(request)):
        return ProblemError(
            ProblemCode.TOO_MANY_GUESSES,
            f"too many requests without a valid token; retry after {wait:.1f} s",
            headers={"Retry-After": str(int(wait) + 1)},
        )
    return ProblemError(code, detail, headers={"WWW-Authenticate": "Bearer"})


def _address(request: Request) -> str:
    return request.client.host if request.client else "?"


def _is_local(request: Request) -> bool:
    """Return whether a program on this machine sent the request, not a web page in a browser or a client of a proxy."""
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


CurrentPrincipal = Annotated[Principal, Depends(current_principal)]


def require(principal: Principal, role: Role) -> None:
    """Raise ProblemError unless the principal has the role."""
    if not principal.has_role(role):
        raise ProblemError(
            ProblemCode.ROLE_REQUIRED, f"this requires the role {role}; the token has the role {principal.role}"
        )
