"""The reference of the API: its OpenAPI document, a page of it, and the meaning of each problem. None needs a token."""

from functools import cache

from fastapi import APIRouter, Request
from fastapi import Path as PathParameter
from starlette.responses import Response

from audio_qa.errors import shown
from orchestrator.run.records import json_text
from orchestrator.schemas.about import ProblemKindView
from orchestrator.schemas.api import Page
from orchestrator.schemas.problem_code import KINDS, ApiProblemKind, ProblemCode
from orchestrator.service.api.problems import ProblemError, error_responses
from orchestrator.service.api.replies.pages import page, problems_page, reference_page
from orchestrator.service.api.routes.views import json_of

router = APIRouter(tags=["reference"])
_PAGE = {"text/html": {"schema": {"type": "string"}}}


@router.get("/openapi.json", include_in_schema=False)
async def get_openapi_document(request: Request) -> Response:
    """Return the OpenAPI document."""
    app = request.app
    if not hasattr(app.state, "openapi_json"):
        app.state.openapi_json = json_text(app.openapi())
    return Response(app.state.openapi_json, media_type="application/json")


@router.get("/docs", include_in_schema=False)
async def get_reference(request: Request) -> Response:
    """Return the OpenAPI document as a page."""
    app = request.app
    if not hasattr(app.state, "reference_page"):
        app.state.reference_page = reference_page(app.openapi())
    return page(app.state.reference_page)


@router.get(
    "/problems",
    response_model=Page[ProblemKindView],
    responses={200: {"content": _PAGE}, **error_responses(token=False)},
    summary="List the kinds of problems",
)
async def list_problems(request: Request) -> Response:
    """List all kinds of problems that the API reports: as JSON, or as a page if text/html is accepted."""
    if _wants_page(request):
        return page(_all_kinds())
    items = [_view(code, kind) for code, kind in KINDS.items()]
    return _varying(json_of(Page[ProblemKindView](items=items, next_cursor=None)))


@router.get(
    "/problems/{code}",
    response_model=ProblemKindView,
    responses={200: {"content": _PAGE}, **error_responses(ProblemCode.PROBLEM_NOT_FOUND, token=False)},
    summary="Explain a kind of problem",
)
async def get_problem(
    request: Request,
    code: str = PathParameter(max_length=64, description="Code of the problem.", examples=["job_not_found"]),
) -> Response:
    """Return what a kind of problem means and how to mend it: as JSON, or as a page if text/html is accepted."""
    found = ProblemCode(code) if code in KINDS else None
    if found is None:
        raise ProblemError(ProblemCode.PROBLEM_NOT_FOUND, f"there is no problem {shown(code)}; /problems has all")
    if _wants_page(request):
        return page(problems_page({found: KINDS[found]}))
    return _varying(json_of(_view(found, KINDS[found])))


@cache
def _all_kinds() -> str:
    return problems_page(KINDS)


def _view(code: ProblemCode, kind: ApiProblemKind) -> ProblemKindView:
    return ProblemKindView(
        type=f"/problems/{code}", code=code, status=kind.status, title=kind.title, meaning=kind.meaning
    )


def _wants_page(request: Request) -> bool:
    accepted = request.headers.get("accept", "*/*").lower()
    return "text/html" in accepted


def _varying(response: Response) -> Response:
    response.headers["Vary"] = "Accept"
    return response
