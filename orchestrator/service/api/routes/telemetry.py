"""Telemetry of a job: workers, metrics, samples with their clips, checkpoints."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi import Path as PathParameter
from pydantic import ValidationError
from pydantic.config import JsonDict

from audio_qa.audio import AudioError, probe
from audio_qa.errors import shown
from orchestrator.job.roots import OutsideRootsError, Roots
from orchestrator.run.checkpoints import Checkpoints
from orchestrator.run.directory import RunDirectory
from orchestrator.run.records import RunDirectoryError
from orchestrator.schemas.api import CheckpointView, MetricsView, Page, SampleView, WorkerPage
from orchestrator.schemas.problem_code import ProblemCode
from orchestrator.schemas.whole_number import WholeNumber
from orchestrator.service.api.problems import OF_RUN_FILES, ProblemError, error_responses
from orchestrator.service.api.replies.clip import ClipResponse, OpenFile
from orchestrator.service.api.routes.job_access import Context, VisibleJob
from orchestrator.service.api.routes.views import metrics_view, workers_view
from orchestrator.service.store.records import JobRecord
from orchestrator.service.telemetry.sample_id import PATTERN, cursor_of, parse_sample_id
from orchestrator.service.telemetry.samples import Order, Samples

router = APIRouter(prefix="/jobs/{job_id}", tags=["telemetry"])

_MAX_STEP = 2**53
_PATTERN: JsonDict = {"pattern": PATTERN}
Cursor = Annotated[str | None, Query(description="next_cursor of the previous page.", json_schema_extra=_PATTERN)]


@router.get(
    "/workers", response_model=WorkerPage, responses=error_responses(*OF_RUN_FILES), summary="List rollout workers"
)
async def list_workers(job: VisibleJob, context: Context) -> WorkerPage:
    """List the rollout workers of a job, and their target number."""
    run_dir = Path(job.run_dir)
    return workers_view(job, await context.files.run(run_dir, context.histories.of, run_dir))


@router.get(
    "/metrics",
    response_model=MetricsView,
    responses=error_responses(*OF_RUN_FILES, ProblemCode.RUN_UNREADABLE),
    summary="Query metrics",
)
async def query_metrics(
    job: VisibleJob,
    context: Context,
    since_step: Annotated[
        WholeNumber | None, Query(ge=-1, le=_MAX_STEP, description="Only steps after this one.")
    ] = None,
    names: Annotated[
        list[str] | None, Query(max_length=200, description="Only these metrics: repeated, or separated by commas.")
    ] = None,
    points: Annotated[
        WholeNumber,
        Query(ge=1, le=10_000, description="Maximum number of rows; more steps are grouped into this many buckets."),
    ] = 1000,
) -> Response:
    """Return metrics by learner step: one object per step, or per bucket of steps with mean, minimum and maximum."""
    wanted = None if names is None else [name for part in names for name in part.split(",") if name]

    def query() -> bytes:
        series = context.metrics.of(Path(job.run_dir)).query(since_step, wanted, points)
        return metrics_view(series).model_dump_json().encode()

    return Response(await context.files.run(Path(job.run_dir), query), media_type="application/json")


@router.get(
    "/samples",
    response_model=Page[SampleView],
    responses=error_responses(*OF_RUN_FILES, ProblemCode.RUN_UNREADABLE, ProblemCode.INVALID_CURSOR),
    summary="List samples",
)
async def list_samples(
    job: VisibleJob,
    context: Context,
    step: Annotated[
        WholeNumber | None, Query(ge=0, le=_MAX_STEP, description="Only samples of this learner step.")
    ] = None,
    order: Annotated[Order, Query(description="Sort order.")] = "newest",
    cursor: Cursor = None,
    limit: Annotated[WholeNumber, Query(ge=1, le=500)] = 50,
) -> Page[SampleView]:
    """List scored completions with their questions, rewards and advantages.

    A job that recovers does the steps after its last checkpoint again. An id leads to the same completion afterwards,
    or to none if it was sampled anew with another text. A list that is continued goes on at the same place.
    """
    run_dir = Path(job.run_dir)
    after = None if cursor is None else cursor_of(cursor)
    page = await context.files.run(run_dir, Samples(run_dir).page, after, limit, order, step)
    try:
        items = [
            SampleView.model_validate(item | {"audio_url": f"/v1/jobs/{job.id}/samples/{item['id']}/audio"})
            for item in page.items
        ]
    except ValidationError as error:
        raise RunDirectoryError(run_dir, f"a line of its samples is not one ({error.error_count()} fields)") from error
    return Page[SampleView](items=items, next_cursor=None if page.next_after is None else str(page.next_after))


@router.get(
    "/samples/{sample}/audio",
    response_class=Response,
    responses={
        200: {"content": {"audio/*": {"schema": {"type": "string", "format": "binary"}}}, "description": "The clip."},
        206: {
            "content": {
                "audio/*": {"schema": {"type": "string", "format": "binary"}},
                "multipart/byteranges": {"schema": {"type": "string", "format": "binary"}},
            },
            "description": "The requested range of bytes.",
        },
        **error_responses(
            *OF_RUN_FILES,
            ProblemCode.SAMPLE_NOT_FOUND,
            ProblemCode.CLIP_UNAVAILABLE,
            ProblemCode.RUN_UNREADABLE,
            ProblemCode.PRECONDITION_FAILED,
            ProblemCode.RANGE_NOT_SATISFIABLE,
        ),
    },
    summary="Download the clip of a sample",
)
async def get_sample_audio(
    job: VisibleJob,
    context: Context,
    sample: Annotated[
        str, PathParameter(description="Sample id.", examples=["12-97-0-5d41402a"], json_schema_extra=_PATTERN)
    ],
) -> Response:
    """Download the clip of a sample's question. Supports Range requests, which audio players send."""
    named = await context.files.run(Path(job.run_dir), _clip_name, job, sample)
    folder = Path(named).parent
    file = await context.files.run(folder, _opened, context.roots_of(job.owner), named, sample)
    kind = _MEDIA_TYPES.get(Path(named).suffix.lower(), "audio/basic")
    # A file crafted to be both a clip and a web page must not run as a page.
    headers = {"Content-Security-Policy": "sandbox; default-src 'none'"}
    return ClipResponse(file, Path(named).name, kind, headers, context.files, folder)


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


def _clip_name(job: JobRecord, sample: str) -> str:
    """Return the path of a sample's clip as its question names it."""
    identity = parse_sample_id(sample)
    if identity is None:
        old = " but in an earlier version of the service" if sample.isdecimal() else ""
        detail = f"{shown(sample)} is not the id of a sample{old}; list the samples again"
        raise ProblemError(ProblemCode.SAMPLE_NOT_FOUND, detail)
    found = Samples(Path(job.run_dir)).one(identity)
    if found is None:
        raise ProblemError(ProblemCode.SAMPLE_NOT_FOUND, f"job {job.id} has no sample {shown(sample)}")
    return str(found.get("audio", ""))


def _opened(roots: Roots, named: str, sample: str) -> OpenFile:
    """Open a clip that is in the roots."""
    try:
        path = roots.file(named)
        probe(str(path))
        return OpenFile.of(path)
    except (OutsideRootsError, AudioError, FileNotFoundError) as error:
        raise ProblemError(
            ProblemCode.CLIP_UNAVAILABLE, f"the clip of sample {shown(sample)} is not available from this service"
        ) from error


@router.get(
    "/checkpoints",
    response_model=Page[CheckpointView],
    responses=error_responses(*OF_RUN_FILES),
    summary="List checkpoints",
)
async def list_checkpoints(job: VisibleJob, context: Context) -> Page[CheckpointView]:
    """List all complete checkpoints of a job, newest first."""
    return Page[CheckpointView](items=await context.files.run(Path(job.run_dir), _checkpoints, job), next_cursor=None)


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
