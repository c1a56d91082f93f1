"""Events and logs of a job: as server-sent events that can be resumed, or as pages of JSON."""

import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic.config import JsonDict
from pydantic_core import from_json
from starlette.responses import StreamingResponse

from audio_qa.errors import shown
from orchestrator.run.files import DRIVER_LOG, EVENTS
from orchestrator.run.history import UNREADABLE
from orchestrator.run.lines import FileLine, PlaceError, check_place, lines_after, lines_before
from orchestrator.schemas.api import EventView, LogLine, Page, View
from orchestrator.schemas.job_state import ENDED
from orchestrator.schemas.problem_code import ProblemCode
from orchestrator.schemas.whole_number import WholeNumber
from orchestrator.service.api.problems import OF_RUN_FILES, ProblemError, error_responses
from orchestrator.service.api.replies.head import is_head
from orchestrator.service.api.routes.job_access import Context, VisibleJob
from orchestrator.service.api.state import ApiContext
from orchestrator.service.store.records import JobRecord
from orchestrator.service.store.store import JobNotFoundError, StoreUnavailableError
from orchestrator.service.telemetry.encode import json_line, log_line, log_text
from orchestrator.service.telemetry.tail import Encode

router = APIRouter(prefix="/jobs/{job_id}", tags=["streams"])

_PLACE = "^[0-9]{1,18}$"
_SCHEMA: JsonDict = {"pattern": _PLACE}
Cursor = Annotated[str | None, Query(description="Start after this id.", json_schema_extra=_SCHEMA)]
LastId = Annotated[
    str | None,
    Header(alias="Last-Event-ID", description="Start after this id; overrides cursor.", json_schema_extra=_SCHEMA),
]
Tail = Annotated[WholeNumber | None, Query(ge=0, le=10_000, description="Start this many lines before the end.")]
Limit = Annotated[WholeNumber, Query(ge=1, le=1000, description="Lines in a page of JSON.")]


# The schema of one event, in the form of OpenAPI 3.2.
_EVENT = {
    "type": "object",
    "properties": {"id": {"type": "string"}, "event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["id", "data"],
}


def _content(page: type[View], example: str) -> dict[int | str, dict[str, Any]]:
    stream = {"schema": _EVENT, "example": example}
    return {
        200: {
            "model": page,
            "description": "Server-sent events, or a page of JSON if only application/json is accepted.",
            "content": {"text/event-stream": stream},
        },
        **error_responses(*OF_RUN_FILES, ProblemCode.INVALID_CURSOR, ProblemCode.TOO_MANY_STREAMS),
    }


@router.get(
    "/events",
    response_model=Page[EventView],
    responses=_content(Page[EventView], 'id: 97\ndata: {"time": "…", "kind": "state", "state": "running"}\n\n'),
    summary="Stream or list events",
)
async def stream_events(
    request: Request,
    job: VisibleJob,
    context: Context,
    cursor: Cursor = None,
    last_event_id: LastId = None,
    tail: Tail = None,
    limit: Limit = 100,
) -> Response:
    """Stream the events of a job: changes of state, workers, evaluations, checkpoints, failures.

    The stream ends with the job, with an event named `end`. Send the id of the last event as Last-Event-ID to resume a
    stream without gaps or duplicates.
    """

    def item(line: FileLine) -> EventView:
        return EventView.model_validate((_event(line.text) or _NO_EVENT) | {"cursor": str(line.end)})

    file = _LineFile(Path(job.run_dir) / EVENTS, _event_line, item)
    after = _start(cursor, last_event_id, tail)
    return await _respond(context, request, job, file, after, tail, limit)


@router.get(
    "/logs",
    response_model=Page[LogLine],
    responses=_content(Page[LogLine], "id: 23\ndata: starting workers\n\n"),
    summary="Stream or list log lines",
)
async def stream_logs(
    request: Request,
    job: VisibleJob,
    context: Context,
    cursor: Cursor = None,
    last_event_id: LastId = None,
    tail: Tail = None,
    limit: Limit = 100,
) -> Response:
    """Stream what the driver of a job prints. Streams and pages as for events."""

    def item(line: FileLine) -> LogLine:
        return LogLine(cursor=str(line.end), text=log_text(line.text))

    file = _LineFile(Path(job.run_dir) / DRIVER_LOG, log_line, item)
    after = _start(cursor, last_event_id, tail)
    return await _respond(context, request, job, file, after, tail, limit)


_NO_EVENT = {"kind": UNREADABLE}
"""Stands for a line that is not an event: it has a place in the file, and hides no event after it."""


def _event(text: bytes) -> dict[str, Any] | None:
    """Return the event of a line, or None if it has none."""
    try:
        found = from_json(text, allow_inf_nan=False)
    except ValueError:
        return None
    is_event = isinstance(found, dict) and all(isinstance(found.get(name, ""), str | None) for name in ("time", "kind"))
    return found if is_event else None


def _event_line(text: bytes) -> bytes:
    return json_line(text) if _event(text) is not None else json.dumps(_NO_EVENT).encode()


class _LineFile:
    """A growing file and how its lines become events and items."""

    def __init__(self, path: Path, encode: Encode, item: Callable[[FileLine], View]) -> None:
        self.path, self.encode, self.item = path, encode, item


def _start(cursor: str | None, last_id: str | None, tail: int | None) -> int | None:
    """Return the place after which a stream or page begins, if one is named. Raises PlaceError."""
    if cursor is not None and tail is not None:
        # Last-Event-ID comes with either: a browser that reconnects repeats the address.
        raise RequestValidationError(
            [{"type": "conflict", "loc": ("query", "tail"), "msg": "excludes cursor; send one of the two"}]
        )
    named = last_id or cursor
    if named is not None and not re.fullmatch(_PLACE, named):
        raise PlaceError(f"{shown(named)} is not the id of an event or line; start over")
    return None if named is None else int(named)


async def _respond(
    context: ApiContext,
    request: Request,
    job: JobRecord,
    file: _LineFile,
    after: int | None,
    tail: int | None,
    limit: int,
) -> Response:
    run_dir = file.path.parent
    place = await context.files.run(run_dir, _start_place, file.path, after, tail)
    if _wants_json(request):
        return await context.files.run(run_dir, _page, file, place, limit)
    if context.tails.streams >= context.settings.max_streams:
        raise ProblemError(ProblemCode.TOO_MANY_STREAMS, "too many open streams", headers={"Retry-After": "10"})

    async def is_over() -> bool:
        try:
            found, _ = await context.jobs.get(job.id)
            return found.state in ENDED
        except JobNotFoundError:
            return True
        except StoreUnavailableError:
            # The job continues without the database, and so does the stream.
            return False

    async def body() -> AsyncIterator[bytes]:
        context.meters.streams.inc()
        try:
            async for chunk in context.tails.follow(file.path, place, file.encode, is_over):
                yield chunk
        finally:
            context.meters.streams.dec()

    # A buffering proxy would delay events.
    headers = {"X-Accel-Buffering": "no", "Vary": "Accept"}
    if is_head(request.scope):
        without_body = Response(media_type="text/event-stream", headers=headers)
        del without_body.headers["content-length"]
        return without_body
    return StreamingResponse(body(), media_type="text/event-stream", headers=headers)


def _start_place(path: Path, after: int | None, tail: int | None) -> int:
    if after is not None:
        check_place(path, after)
        return after
    if tail is None:
        return 0
    if tail == 0:
        last = lines_before(path, None, 1)
        return last[0].end if last else 0
    lines = lines_before(path, None, tail)
    return lines[-1].start if lines else 0


def _page(file: _LineFile, place: int, limit: int) -> Response:
    lines = lines_after(file.path, place, limit)
    end = lines[-1].end if lines else place
    more = bool(lines_after(file.path, end, 1))
    found = Page[Any](items=[file.item(line) for line in lines], next_cursor=str(end) if more else None)
    return Response(found.model_dump_json(), media_type="application/json", headers={"Vary": "Accept"})


def _wants_json(request: Request) -> bool:
    accepted = request.headers.get("accept", "*/*").lower()
    return "application/json" in accepted and "text/event-stream" not in accepted
