"""The service itself: its versions and limits, the user who asks, the audit log."""

import math
from datetime import UTC
from importlib.metadata import version as installed
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import AwareDatetime

from orchestrator.schemas.about import (
    AuditView,
    BoundsView,
    LimitsView,
    MeView,
    RequestLimitsView,
    TokenView,
    VersionView,
)
from orchestrator.schemas.api import Page
from orchestrator.schemas.problem_code import ProblemCode
from orchestrator.schemas.whole_number import WholeNumber
from orchestrator.service.api.principal import CurrentPrincipal
from orchestrator.service.api.problems import ProblemError, error_responses
from orchestrator.service.api.routes.job_access import Context
from orchestrator.service.store.access import Role
from orchestrator.service.store.credentials import without_secrets
from orchestrator.service.store.request_store import KEY_DAYS, MOST_KEYS

API_VERSION = "1"

router = APIRouter(tags=["service"])

Text = Annotated[str | None, Query(max_length=128)]


@router.get("/version", response_model=VersionView, responses=error_responses(), summary="Show the versions")
async def version(principal: CurrentPrincipal) -> VersionView:
    """Return the versions of Earshot, of the API and of Ray."""
    return VersionView(earshot=installed("earshot"), api=API_VERSION, ray=installed("ray"))


@router.get("/me", response_model=MeView, responses=error_responses(), summary="Show who asks")
async def me(principal: CurrentPrincipal, context: Context) -> MeView:
    """Return the user of the request, their role and token, and the number of their jobs by state."""
    token = principal.token
    return MeView(
        owner=principal.owner,
        role=principal.role,
        local=token is None,
        token=None if token is None else TokenView(id=token.id, name=token.name, expires_at=token.expires_at),
        jobs=await context.store.counts(principal.owner),
    )


@router.get("/limits", response_model=LimitsView, responses=error_responses(), summary="Show the limits")
async def limits(principal: CurrentPrincipal, context: Context) -> LimitsView:
    """Return what the service allows: jobs, requests, folders, reward modules and judges."""
    settings = context.settings
    bounds = settings.limits
    return LimitsView(
        jobs=_bounds(bounds.running, bounds.queued, bounds.gpus),
        jobs_per_user=_bounds(bounds.running_per_user, bounds.queued_per_user, bounds.gpus_per_user),
        requests=RequestLimitsView(
            body_bytes=settings.max_body_bytes,
            yaml_bytes=settings.max_yaml_bytes,
            depth=settings.max_depth,
            per_second=settings.requests_per_second,
            burst=int(settings.request_burst),
            streams=settings.max_streams,
            stream_seconds=settings.max_stream_seconds,
            key_days=KEY_DAYS,
            keys=MOST_KEYS,
        ),
        preemption=settings.preemption,
        # Those of other owners are nobody else's business.
        roots=[str(root) for root in (*settings.roots, *settings.owner_roots.get(principal.owner, ()))],
        cache_roots=[str(root) for root in settings.cache_roots],
        reward_modules=list(settings.reward_modules),
        judge_hosts=list(settings.judge_hosts),
        judge_keys=list(settings.judge_keys),
        storage=settings.storage,
        keep_days=settings.keep_days or None,
    )


@router.get(
    "/audit",
    response_model=Page[AuditView],
    responses=error_responses(ProblemCode.INVALID_CURSOR),
    summary="Show the audit log",
)
async def audit(
    principal: CurrentPrincipal,
    context: Context,
    actor: Annotated[Text, Query(description="Only what this user asked for.")] = None,
    action: Annotated[Text, Query(description="Only this action.", examples=["job.cancel"])] = None,
    target: Annotated[Text, Query(description="Only changes to this job or token.")] = None,
    since: Annotated[AwareDatetime | None, Query(description="Only from this time on, with its time zone.")] = None,
    cursor: Annotated[str | None, Query(max_length=200, description="next_cursor of the previous page.")] = None,
    limit: Annotated[WholeNumber, Query(ge=1, le=500)] = 50,
) -> Page[AuditView]:
    """List what was done or refused, newest first: by the user who asks, or by everyone for an admin."""
    if principal.role is not Role.ADMIN:
        if actor is not None and actor != principal.owner:
            return Page[AuditView](items=[], next_cursor=None)
        actor = principal.owner
    try:
        start = None if since is None else since.astimezone(UTC)
    except OverflowError as error:
        raise ProblemError(ProblemCode.INVALID_REQUEST, "query.since: a time outside of the calendar") from error
    page = await context.store.audit_page(
        actor=actor, action=action, target=target, since=start, cursor=cursor, limit=limit
    )
    items = [
        AuditView(
            at=one.at,
            actor=one.actor,
            action=one.action,
            target=one.target,
            outcome=one.outcome,
            detail=without_secrets(one.detail),
        )
        for one in page.items
    ]
    return Page[AuditView](items=items, next_cursor=page.next_cursor)


def _bounds(running: float, queued: float, gpus: float) -> BoundsView:
    def whole(bound: float) -> int | None:
        return int(bound) if math.isfinite(bound) else None

    return BoundsView(running=whole(running), queued=whole(queued), gpus=gpus if math.isfinite(gpus) else None)
