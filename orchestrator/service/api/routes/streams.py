"""Events and logs of a job: as server-sent events that resume, or in parts as JSON."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic_core import from_json
from starlette.responses import StreamingResponse

from orchestrator.run.events import EVENTS, LOG
from orchestrator.run.lines import FileLine, check_place, lines_after, lines_before
from orchestrator.schemas.api import EventView, LogLine, Page, View
from orchestrator.schemas.job_state import ENDED
from orchestrator.service.api.problems import ProblemError, documented
from orchestrator.service.api.routes.job_access import TheApi, TheJob
from orchestrator.service.api.state import Api
from orchestrator.service.store.records import JobRecord
from orchestrator.service.store.store import JobNotFoundError, StoreUnavailableError
from orchestrator.service.telemetry.encode import json_line, log_line, log_text
from orchestrator.service.telemetry.tail import Encode

router = APIRouter(prefix="/jobs/{job_id}", tags=["streams"])

Place = Annotated[str | None, Query(pattern=r"^\d{1,18}$", description="Begin behind this id.")]
LastId = Annotated[
    str | None,
    Header(alias="Last-Event-ID", pattern=r"^\d{1,18}$", description="Begin behind this id; goes before cursor."),
]
Tail = Annotated[int | None, Query(ge=0, le=10_000, description="Begin so many lines before the end.")]
Limit = Annotated[int, Query(ge=1, le=1000, description="Of JSON: lines in one part.")]


# Of one event, as OpenAPI 3.2 describes them.
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
            "description": "Server-sent events, or, where only application/json is accepted, a part as JSON.",
            "content": {"text/event-stream": stream},
        },
        **documented(404),
    }


@router.get(
    "/events",
    response_model=Page[EventView],
    responses=_content(Page[EventView], 'id: 97\ndata: {"time": "…", "kind": "state", "state": "running"}\n\n'),
    summary="Events",
)
async def events(
    request: Request,
    job: TheJob,
    api: TheApi,
    cursor: Place = None,
    last_event_id: LastId = None,
    tail: Tail = None,
    limit: Limit = 100,
) -> Response:
    """What happens in a job: changes of state, workers, evaluations, checkpoints, failures.

    A stream goes on until the job has ended, and then sends an event named `end`. The id of an event is where the next
    one begins: sent back as Last-Event-ID, the stream goes on there without gaps or repeats.
    """

    def item(line: FileLine) -> EventView:
        return EventView.model_validate(from_json(line.text) | {"cursor": str(line.end)})

    source = _Source(Path(job.run_dir) / EVENTS, json_line, item)
    return await _answer(api, request, job, source, last_event_id or cursor, tail, limit)


@router.get(
    "/logs",
    response_model=Page[LogLine],
    responses=_content(Page[LogLine], "id: 23\ndata: starting workers\n\n"),
    summary="Logs",
)
async def logs(
    request: Request,
    job: TheJob,
    api: TheApi,
    cursor: Place = None,
    last_event_id: LastId = None,
    tail: Tail = None,
    limit: Limit = 100,
) -> Response:
    """What a job's driver writes. Streams and parts as for events."""

    def item(line: FileLine) -> LogLine:
        return LogLine(cursor=str(line.end), text=log_text(line.text))

    source = _Source(Path(job.run_dir) / LOG, log_line, item)
    return await _answer(api, request, job, source, last_event_id or cursor, tail, limit)


class _Source:
    def __init__(self, path: Path, encode: Encode, item: Callable[[FileLine], View]) -> None:
        self.path, self.encode, self.item = path, encode, item


async def _answer(
    api: Api, request: Request, job: JobRecord, source: _Source, after: str | None, tail: int | None, limit: int
) -> Response:
    place = await asyncio.to_thread(_begin, source.path, None if after is None else int(after), tail)
    if _wants_json(request):
        return await asyncio.to_thread(_part, source, place, limit)
    if api.tails.streams >= api.settings.most_streams:
        raise ProblemError(503, "too many open streams", headers={"Retry-After": "10"})

    async def is_over() -> bool:
        try:
            found, _ = await api.jobs.get(job.id)
            return found.state in ENDED
        except JobNotFoundError:
            return True
        except StoreUnavailableError:
            # The job goes on without its database, and so does the stream.
            return False

    async def body() -> AsyncIterator[bytes]:
        api.meters.streams.inc()
        try:
            async for piece in api.tails.follow(source.path, place, source.encode, is_over):
                yield piece
        finally:
            api.meters.streams.dec()

    # A proxy that collects what it passes on would hold events back.
    return StreamingResponse(body(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


def _begin(path: Path, after: int | None, tail: int | None) -> int:
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


def _part(source: _Source, place: int, limit: int) -> Response:
    lines = lines_after(source.path, place, limit)
    end = lines[-1].end if lines else place
    more = bool(lines_after(source.path, end, 1))
    page = Page[Any](items=[source.item(line) for line in lines], next_cursor=str(end) if more else None)
    return Response(page.model_dump_json(), media_type="application/json")


def _wants_json(request: Request) -> bool:
    accepted = request.headers.get("accept", "*/*").lower()
    return "application/json" in accepted and "text/event-stream" not in accepted
