"""Telemetry of a job: workers, metrics, samples with their clips, checkpoints."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi import Path as PathParameter
from starlette.responses import FileResponse

from audio_qa.audio import AudioError, probe
from orchestrator.run.checkpoints import Checkpoints
from orchestrator.run.directory import RunDirectory
from orchestrator.run.records import RunDirectoryError
from orchestrator.schemas.api import CheckpointView, MetricsView, Page, SampleView, WorkerPage
from orchestrator.schemas.problem_code import ProblemCode
from orchestrator.service.admission.roots import OutsideRootsError
from orchestrator.service.api.problems import ProblemError, error_responses
from orchestrator.service.api.routes.job_access import Context, VisibleJob
from orchestrator.service.api.routes.views import metrics_view, workers_view
from orchestrator.service.store.records import JobRecord
from orchestrator.service.telemetry.samples import Order, Samples

router = APIRouter(prefix="/jobs/{job_id}", tags=["telemetry"])

_MAX_STEP = 2**53
Cursor = Annotated[str | None, Query(pattern=r"^\d{1,18}$", description="next_cursor of the previous page.")]


@router.get("/workers", response_model=WorkerPage, responses=error_responses(404), summary="List rollout workers")
async def workers(job: VisibleJob, context: Context) -> WorkerPage:
    """List the rollout workers of a job, and their target number."""
    return workers_view(job, await asyncio.to_thread(context.histories.of, Path(job.run_dir)))


@router.get("/metrics", response_model=MetricsView, responses=error_responses(404, 409), summary="Query metrics")
async def metrics(
    job: VisibleJob,
    context: Context,
    since_step: Annotated[int | None, Query(ge=-1, le=_MAX_STEP, description="Only steps after this one.")] = None,
    names: Annotated[
        list[str] | None, Query(max_length=200, description="Only these metrics: repeated, or separated by commas.")
    ] = None,
    points: Annotated[
        int,
        Query(ge=1, le=10_000, description="Maximum number of rows; more steps are grouped into this many buckets."),
    ] = 1000,
) -> Response:
    """Return metrics by learner step: one object per step, or per bucket of steps with mean, minimum and maximum."""
    wanted = None if names is None else [name for part in names for name in part.split(",") if name]

    def query() -> bytes:
        series = context.metrics.of(Path(job.run_dir)).query(since_step, wanted, points)
        return metrics_view(series).model_dump_json().encode()

    return Response(await asyncio.to_thread(query), media_type="application/json")


@router.get("/samples", response_model=Page[SampleView], responses=error_responses(404, 409), summary="List samples")
async def samples(
    job: VisibleJob,
    step: Annotated[int | None, Query(ge=0, le=_MAX_STEP, description="Only samples of this learner step.")] = None,
    order: Annotated[Order, Query(description="Sort order.")] = "newest",
    cursor: Cursor = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> Page[SampleView]:
    """List scored completions with their questions, rewards and advantages."""
    place = None if cursor is None else int(cursor)
    page = await asyncio.to_thread(Samples(Path(job.run_dir)).page, place, limit, order, step)
    items = [
        SampleView.model_validate(item | {"audio_url": f"/v1/jobs/{job.id}/samples/{item['id']}/audio"})
        for item in page.items
    ]
    return Page[SampleView](items=items, next_cursor=None if page.next_place is None else str(page.next_place))


@router.get(
    "/samples/{sample}/audio",
    response_class=FileResponse,
    responses={
        200: {"content": {"audio/*": {"schema": {"type": "string", "format": "binary"}}}, "description": "The clip."},
        206: {
            "content": {
                "audio/*": {"schema": {"type": "string", "format": "binary"}},
                "multipart/byteranges": {"schema": {"type": "string", "format": "binary"}},
            },
            "description": "The requested range of bytes.",
        },
        **error_responses(404, 409, 416),
    },
    summary="Download the clip of a sample",
)
async def audio(
    job: VisibleJob,
    context: Context,
    sample: Annotated[str, PathParameter(pattern=r"^\d{1,18}$", description="Sample id.", examples=["0"])],
) -> Response:
    """Download the clip of a sample's question. Supports Range requests, which audio players send."""
    path, name = await asyncio.to_thread(_clip, job, int(sample), context)
    kind = _MEDIA_TYPES.get(Path(name).suffix.lower(), "audio/basic")
    # A file crafted to be both a clip and a web page must not run as a page.
    headers = {"Content-Security-Policy": "sandbox; default-src 'none'"}
    return FileResponse(path, media_type=kind, headers=headers, content_disposition_type="inline", filename=name)


_MEDIA_TYPES = {
    ".wav": "audio/wav",
    ".flac": "audio/flac",
    ".mp3": "audio/mpeg",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".m4a": "audio/mp4",
    ".aiff": "audio/aiff",
    ".aif": "audio/aiff",
}


def _clip(job: JobRecord, sample: int, context: Context) -> tuple[Path, str]:
    """Return where a sample's clip is, and its name, which may be that of a link."""
    found = Samples(Path(job.run_dir)).one(sample)
    if found is None:
        raise ProblemError(ProblemCode.SAMPLE_NOT_FOUND, f"job {job.id} has no sample {str(sample)!r}")
    try:
        named = str(found.get("audio", ""))
        path = context.roots.file(named)
        probe(str(path))
    except (OutsideRootsError, AudioError) as error:
        raise ProblemError(
            ProblemCode.CLIP_UNAVAILABLE, f"the clip of sample {str(sample)!r} is not available from this service"
        ) from error
    return path, Path(named).name


@router.get(
    "/checkpoints", response_model=Page[CheckpointView], responses=error_responses(404), summary="List checkpoints"
)
async def checkpoints(job: VisibleJob) -> Page[CheckpointView]:
    """List all complete checkpoints of a job, newest first."""
    return Page[CheckpointView](items=await asyncio.to_thread(_checkpoints, job), next_cursor=None)


def _checkpoints(job: JobRecord) -> list[CheckpointView]:
    try:
        kept = Checkpoints(RunDirectory(job.run_dir), keep_last=0, keep_best=False)
    except RunDirectoryError:
        return []
    items = []
    for step in reversed(kept.steps()):
        folder = kept.folder(step)
        try:
            accuracy = kept.job(step).get("accuracy")
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            made = datetime.fromtimestamp(folder.stat().st_mtime, UTC)
        except FileNotFoundError:
            # Deleted after it was listed.
            continue
        items.append(CheckpointView(step=step, path=str(folder), created_at=made, bytes=size, accuracy=accuracy))
    return items
