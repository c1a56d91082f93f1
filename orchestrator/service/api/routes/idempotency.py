"""Requests with an `Idempotency-Key`: one that is repeated has no second effect.

Invariant: of the requests with one key of one owner, one at a time is carried out, and none after one that succeeded.
Requests that failed are not remembered: they may be corrected and sent again.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from typing import Annotated, Any

from fastapi import Depends, Header, Request, Response
from fastapi.params import Depends as Dependency
from fastapi.routing import APIRoute
from pydantic import AfterValidator

from audio_qa.errors import EarshotError
from orchestrator.schemas.api import CommandView
from orchestrator.schemas.problem_code import ProblemCode
from orchestrator.service.api.body import read_object
from orchestrator.service.api.principal import CurrentPrincipal, Principal
from orchestrator.service.api.problems import ProblemError
from orchestrator.service.api.routes.job_access import Context, job_for
from orchestrator.service.api.routes.views import job_view, json_of
from orchestrator.service.api.settings import ApiSettings
from orchestrator.service.api.state import ApiContext, api_context
from orchestrator.service.store.request_store import KEY_DAYS, DoneRequest, RequestKey
from orchestrator.service.store.store import RequestInProgressError

REPLAYED = "Idempotent-Replayed"
"""Header of a response to a request that was done before."""

_WAIT_SECONDS = 10.0
_READS = frozenset({"GET", "HEAD"})

_KEY = r"^[\x21-\x7e]{1,255}$"


def _check_key(key: str | None) -> str | None:
    if key is not None and not re.fullmatch(_KEY, key):
        raise ValueError("a key has 1 to 255 characters of ASCII, none of them a space")
    return key


Key = Annotated[
    str | None,
    AfterValidator(_check_key),
    Header(
        alias="Idempotency-Key",
        json_schema_extra={"pattern": _KEY},
        description="Any unique text. Repeating a request with the same key has no second effect.",
    ),
]


class _RepeatedError(EarshotError):
    """The request was done before; carries its response."""

    def __init__(self, response: Response) -> None:
        super().__init__("the request was done before")
        self.response = response


class IdempotentRoute(APIRoute):
    """A route whose requests may have an `Idempotency-Key`. For a router: `APIRouter(route_class=IdempotentRoute)`."""

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        methods: set[str] | list[str] | None = None,
        dependencies: list[Dependency] | None = None,
        **options: Any,
    ) -> None:
        known = list(dependencies or ())
        # Including a router makes its routes again, with the dependencies that they have by then.
        if not set(methods or _READS) <= _READS and all(one.dependency is not request_key for one in known):
            known.insert(0, Depends(request_key))
        super().__init__(path, endpoint, methods=methods, dependencies=known, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of the route, which carries out each request once."""
        handle = super().get_route_handler()

        async def handle_once(request: Request) -> Response:
            async with AsyncExitStack() as held:
                request.state.held = held
                try:
                    response = await handle(request)
                    key: RequestKey | None = getattr(request.state, "request_key", None)
                    if key is not None and response.status_code < 300:
                        done = _done(response, request.path_params.get("job_id"))
                        await api_context(request).store.remember_request(key, done)
                except _RepeatedError as repeated:
                    return repeated.response
                except RequestInProgressError as error:
                    raise ProblemError(
                        ProblemCode.REQUEST_IN_PROGRESS, str(error), headers={"Retry-After": "1"}
                    ) from error
                return response

        return handle_once


async def request_key(
    request: Request, principal: CurrentPrincipal, context: Context, key: Key = None
) -> RequestKey | None:
    """Return the key of the request, which no other request uses until this one is done; None without a key.

    Raises:
        IdempotencyError: the key was used for another request.
        RequestInProgressError: another request with this key takes long.
    """
    if key is None:
        return None
    made = RequestKey(principal.owner, key, await _hash(request, context.settings))
    held: AsyncExitStack = request.state.held
    await held.enter_async_context(context.store.one_at_a_time(made, _WAIT_SECONDS))
    done = await context.store.find_request(made)
    if done is not None:
        raise _RepeatedError(await _response(context, principal, done))
    request.state.request_key = made
    return made


CurrentKey = Annotated[RequestKey | None, Depends(request_key)]


def command_id(key: RequestKey | None) -> str | None:
    """Return an id for the command that a request sends: a repetition after a crash sends it under the same id.

    A job carries out each id once. A key that is forgotten, and so means another request, gives another id.
    """
    if key is None:
        return None
    period = int(time.time() // (KEY_DAYS * 86_400))
    return _digest([key.owner, key.key, key.request_hash, period])[:32]


async def _hash(request: Request, settings: ApiSettings) -> str:
    """Return a hash of the request: equal for bodies of equal content, be they JSON or YAML."""
    body = await request.body()
    content: Any = hashlib.sha256(body).hexdigest()
    if body:
        # The route refuses a body that is not an object, or does not read it.
        with suppress(ProblemError):
            content = await read_object(request, settings)
    return _digest([request.method, request.url.path, sorted(request.query_params.multi_items()), content])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _done(response: Response, job_id: str | None) -> DoneRequest:
    """Return what a response says was done. It is that of a job, of a command to one, or empty."""
    value = json.loads(bytes(response.body)) if response.body else {}
    command = {name: value[name] for name in ("id", "command", "count")} if response.status_code == 202 else None
    return DoneRequest(response.status_code, job_id or value["id"], command)


async def _response(context: ApiContext, principal: Principal, done: DoneRequest) -> Response:
    """Return the response to a request that was done before, with the job as it is now."""
    headers = {REPLAYED: "true"}
    if done.status == 204:
        return Response(status_code=204, headers=headers)
    gone = "this Idempotency-Key was used for job {}, which is not here any more; use a new key"
    job = await job_for(context, principal, done.job_id, gone)
    view = await job_view(context, job)
    if done.command is not None:
        response = json_of(CommandView.model_validate({**done.command, "job": view}))
    else:
        response = json_of(view)
        headers["Location"] = f"/v1/jobs/{job.id}"
    response.status_code = done.status if done.command is not None else 200
    response.headers.update(headers)
    return response
