"""Problem documents (RFC 9457): the form of every error of the API, without internal details."""

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from audio_qa.errors import EarshotError, one_line
from orchestrator.run.lines import PlaceError
from orchestrator.run.records import RunDirectoryError, json_text
from orchestrator.schemas.problem_code import KINDS, ProblemCode
from orchestrator.service.store.store import CursorError, IdempotencyError, JobNotFoundError, StoreUnavailableError
from orchestrator.service.telemetry.file_threads import FilesUnavailableError

MEDIA_TYPE = "application/problem+json"
SAFE_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
"""Headers of every response that does not set them itself."""

_log = logging.getLogger(__name__)


class FieldProblem(BaseModel):
    """A problem with one field of a request."""

    field: str = Field(examples=["query.limit"])
    problem: str = Field(examples=["Input should be less than or equal to 500"])


class ProblemDocument(BaseModel):
    """An error (RFC 9457)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "/problems/job_not_found",
                    "code": "job_not_found",
                    "title": "There is no such job",
                    "status": 404,
                    "detail": "there is no job '5f0c'",
                }
            ]
        }
    )

    type: str
    """`/problems/CODE`."""
    code: ProblemCode
    """Kind of the problem, for programs. Codes may be added."""
    title: str
    """Summary, identical for all problems with this code."""
    status: int
    """HTTP status."""
    detail: str
    """Description of the problem and how to fix it, in one line of at most 1,000 characters."""
    errors: list[FieldProblem] | None = None
    """The fields of the request that are not valid."""


class ProblemError(EarshotError):
    """An error to send as the response."""

    def __init__(self, code: ProblemCode, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.code, self.detail, self.headers = code, detail, headers


def problem_response(
    code: ProblemCode,
    detail: str,
    *,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
    errors: list[dict[str, str]] | None = None,
) -> Response:
    """Return a response with a problem document.

    Args:
        status: default: that of the code.
    """
    kind = KINDS[code]
    document: dict[str, Any] = {
        "type": f"/problems/{code}",
        "code": code,
        "title": kind.title,
        "status": kind.status if status is None else status,
        "detail": one_line(detail),
    }
    if errors:
        document["errors"] = errors
    return Response(json_text(document), document["status"], headers=dict(headers or {}), media_type=MEDIA_TYPE)


_CODES = {
    400: ProblemCode.MALFORMED_REQUEST,
    404: ProblemCode.ROUTE_NOT_FOUND,
    405: ProblemCode.METHOD_NOT_ALLOWED,
    406: ProblemCode.NOT_ACCEPTABLE,
    413: ProblemCode.BODY_TOO_LARGE,
    416: ProblemCode.RANGE_NOT_SATISFIABLE,
    422: ProblemCode.INVALID_REQUEST,
    500: ProblemCode.INTERNAL_ERROR,
}


def code_of(status: int) -> ProblemCode:
    """Return the code for an error response of the framework, which has a status only."""
    return _CODES.get(status, ProblemCode.REQUEST_FAILED)


_OF_EVERY_ROUTE = (
    ProblemCode.MALFORMED_REQUEST,
    ProblemCode.REQUEST_TOO_SLOW,
    ProblemCode.BODY_TOO_LARGE,
    ProblemCode.TARGET_TOO_LONG,
    ProblemCode.INVALID_REQUEST,
    ProblemCode.UNKNOWN_PARAMETER,
    ProblemCode.HEADERS_TOO_LARGE,
    ProblemCode.INTERNAL_ERROR,
    ProblemCode.TOO_MANY_CONNECTIONS,
)
_WITH_TOKEN = (
    ProblemCode.TOKEN_REQUIRED,
    ProblemCode.TOKEN_INVALID,
    ProblemCode.ROLE_REQUIRED,
    ProblemCode.RATE_LIMITED,
    ProblemCode.TOO_MANY_GUESSES,
    ProblemCode.DATABASE_UNAVAILABLE,
)
OF_WRITES = (ProblemCode.IDEMPOTENCY_CONFLICT, ProblemCode.REQUEST_IN_PROGRESS, ProblemCode.PRECONDITION_FAILED)
"""Codes of routes that change something, and take an Idempotency-Key."""
OF_BODIES = (ProblemCode.MALFORMED_BODY, ProblemCode.UNSUPPORTED_CONTENT_TYPE)
OF_JOB_FILES = (ProblemCode.INVALID_JOB, ProblemCode.JOB_NEVER_FITS, ProblemCode.ADMISSION_BUSY)
OF_RUN_FILES = (ProblemCode.JOB_NOT_FOUND, ProblemCode.FILES_UNAVAILABLE)
"""Codes of routes that read the files of a job."""
_OF_NO_ROUTE = frozenset({ProblemCode.ROUTE_NOT_FOUND, ProblemCode.METHOD_NOT_ALLOWED, ProblemCode.REQUEST_FAILED})


def error_responses(*answers: int | ProblemCode, token: bool = True) -> dict[int | str, dict[str, Any]]:
    """Return the error responses of a route for the OpenAPI document: these, and those common to all routes.

    Args:
        answers: codes, or statuses for all codes that have them.
        token: the route needs a token.
    """
    own = [code for code, kind in KINDS.items() if {code, kind.status} & set(answers) and code not in _OF_NO_ROUTE]
    codes = dict.fromkeys([*own, *_OF_EVERY_ROUTE, *(_WITH_TOKEN if token else ())])
    return {
        status: _described(status, sorted(code for code in codes if KINDS[code].status == status))
        for status in sorted({KINDS[code].status for code in codes})
    }


def _described(status: int, codes: Sequence[ProblemCode]) -> dict[str, Any]:
    return {
        "description": f"{HTTPStatus(status).phrase}: {', '.join(f'`{code}`' for code in codes)}.",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}},
        "x-problem-codes": [str(code) for code in codes],
    }


def _words(message: str) -> str:
    """Return a message of pydantic, without what it puts before those of validators."""
    return one_line(message.removeprefix("Value error, "), 500)


def install_error_handlers(app: FastAPI) -> None:
    """Install handlers that turn every error into a problem document."""

    @app.exception_handler(ProblemError)
    async def _problem(request: Request, error: ProblemError) -> Response:
        return problem_response(error.code, error.detail, headers=error.headers)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        detail = f"{request.method} {request.url.path[:200]}: {str(error.detail).lower()}"
        return problem_response(code_of(error.status_code), detail, status=error.status_code, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        # A header that two dependencies read is reported twice.
        found = dict.fromkeys((".".join(map(str, item["loc"])), str(item["msg"])) for item in error.errors())
        errors = [{"field": one_line(place, 200), "problem": _words(message)} for place, message in [*found][:20]]
        return problem_response(
            ProblemCode.INVALID_REQUEST, "; ".join(f"{e['field']}: {e['problem']}" for e in errors), errors=errors
        )

    @app.exception_handler(Exception)
    async def _bug(request: Request, error: Exception) -> Response:
        return problem_response(
            ProblemCode.INTERNAL_ERROR, "an internal error; the log of the service has details under this X-Request-Id"
        )

    _translate(app, JobNotFoundError, ProblemCode.JOB_NOT_FOUND)
    _translate(app, CursorError, ProblemCode.INVALID_CURSOR)
    _translate(app, PlaceError, ProblemCode.INVALID_CURSOR)
    _translate(app, IdempotencyError, ProblemCode.IDEMPOTENCY_CONFLICT)

    @app.exception_handler(RunDirectoryError)
    async def _run(request: Request, error: RunDirectoryError) -> Response:
        # Its message contains a path of the service.
        _log.warning("run directory: %s", error)
        return problem_response(ProblemCode.RUN_UNREADABLE, "the files of this run cannot be read")

    @app.exception_handler(FilesUnavailableError)
    async def _files(request: Request, error: FilesUnavailableError) -> Response:
        _log.warning("%s %s: %s", request.method, request.url.path[:200], error)
        return problem_response(ProblemCode.FILES_UNAVAILABLE, str(error), headers={"Retry-After": "5"})

    @app.exception_handler(StoreUnavailableError)
    async def _store(request: Request, error: StoreUnavailableError) -> Response:
        _log.error("store: %s", error)
        return problem_response(
            ProblemCode.DATABASE_UNAVAILABLE,
            "the database cannot be reached; try again later",
            headers={"Retry-After": "2"},
        )


def _translate(app: FastAPI, kind: type[Exception], code: ProblemCode) -> None:
    @app.exception_handler(kind)
    async def _handle(request: Request, error: Exception) -> Response:
        return problem_response(code, str(error))
