"""Authentication and authorization: the principal of a request and its permissions.

Invariant: requests without a valid token have no identity, except those of the user who started a service that listens
on loopback only; to anyone but its owner and admins, a job does not exist; a monitor reads metrics and nothing else.
"""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from orchestrator.schemas.problem_code import ProblemCode
from orchestrator.service.api.connection.local_user import reason_for_distrust
from orchestrator.service.api.connection.peer import Peer
from orchestrator.service.api.guesses import TooManyGuessesError
from orchestrator.service.api.problems import ProblemError
from orchestrator.service.api.settings import ApiSettings
from orchestrator.service.api.state import ApiContext, api_context
from orchestrator.service.store.access import Role, TokenRecord
from orchestrator.service.store.credentials import token_hash
from orchestrator.service.store.records import JobRecord

_bearer = HTTPBearer(
    auto_error=False,
    description="A token from `earshot token create`; optional for the user who started "
    "the service, if it listens on loopback.",
)
_ORDER = (Role.VIEWER, Role.SUBMITTER, Role.ADMIN)


@dataclass(frozen=True, slots=True)
class Principal:
    """The user who sent a request."""

    owner: str
    """Owner of the jobs that this principal submits and may see."""
    role: Role
    token: TokenRecord | None = None
    """None for the local user."""

    def can_see(self, job: JobRecord) -> bool:
        """Return whether the job is visible: their own, or any job for an admin."""
        return self.role is Role.ADMIN or (self.role is not Role.MONITOR and job.owner == self.owner)

    def can_measure(self, job: JobRecord) -> bool:
        """Return whether the job's metrics are visible in the export for Prometheus."""
        return self.role is Role.MONITOR or self.can_see(job)

    def has_role(self, role: Role) -> bool:
        """Return whether their role is this one or a higher one. A monitor has no other one."""
        return self.role in _ORDER and _ORDER.index(self.role) >= _ORDER.index(role)


LOCAL = Principal("local", Role.ADMIN)


async def any_principal(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    context: Annotated[ApiContext, Depends(api_context)],
) -> Principal:
    """Return the principal of a request that monitors may send, too. Raises ProblemError."""
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
    peer = context.peer_of(request)
    if "authorization" not in request.headers:
        reason = _reason_for_token(request, peer, context.settings)
        if reason is None:
            return LOCAL
        raise _unauthorized(
            context,
            ProblemCode.TOKEN_REQUIRED,
            f"a token is required: {reason}; create one with `earshot token create`, and send the header "
            "Authorization: Bearer earshot_…",
        )
    if credentials is None:
        raise _unauthorized(context, ProblemCode.TOKEN_INVALID, "the Authorization header is not 'Bearer TOKEN'")
    # The store compares hashes. Nobody can choose a token's hash, so the time it takes reveals nothing about the token.
    try:
        token = await context.guesses.find(peer.key, token_hash(credentials.credentials))
    except TooManyGuessesError as error:
        context.meters.refused.inc()
        raise ProblemError(
            ProblemCode.TOO_MANY_GUESSES,
            f"too many requests without a valid token; retry after {error.wait:.1f} s",
            headers={"Retry-After": str(int(error.wait) + 1)},
        ) from error
    if token is None:
        raise _unauthorized(context, ProblemCode.TOKEN_INVALID, "the token is not valid: unknown, revoked or expired")
    return Principal(token.owner, token.role, token)


def _reason_for_token(request: Request, peer: Peer, settings: ApiSettings) -> str | None:
    """Return why the request needs a token, or None if it does not."""
    if settings.require_token:
        return "this service trusts nobody without one"
    if not settings.local:
        return "this service is reachable from other machines"
    return reason_for_distrust(request, peer)


def _unauthorized(context: ApiContext, code: ProblemCode, detail: str) -> ProblemError:
    context.meters.refused.inc()
    return ProblemError(code, detail, headers={"WWW-Authenticate": "Bearer"})


AnyPrincipal = Annotated[Principal, Depends(any_principal)]


async def current_principal(principal: AnyPrincipal, context: Annotated[ApiContext, Depends(api_context)]) -> Principal:
    """Return the principal of the request, with any role but monitor. Raises ProblemError."""
    if principal.role is Role.MONITOR:
        context.meters.refused.inc()
        raise ProblemError(ProblemCode.ROLE_REQUIRED, f"a token with the role {Role.MONITOR} reads GET /metrics only")
    return principal


CurrentPrincipal = Annotated[Principal, Depends(current_principal)]


def require(principal: Principal, role: Role) -> None:
    """Raise ProblemError unless the principal has the role."""
    if not principal.has_role(role):
        raise ProblemError(
            ProblemCode.ROLE_REQUIRED, f"this requires the role {role}; the token has the role {principal.role}"
        )
