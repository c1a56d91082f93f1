"""Problem documents (RFC 9457): the form of every error of the API, without internal details."""

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from audio_qa.errors import EarshotError, one_line
from orchestrator.run.lines import PlaceError
from orchestrator.run.records import RunDirectoryError, json_text
from orchestrator.service.store.store import CursorError, IdempotencyError, JobNotFoundError, StoreUnavailableError

MEDIA_TYPE = "application/problem+json"

_TITLES = {
    400: "The request cannot be parsed",
    401: "A valid token is required",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    406: "Not acceptable",
    409: "Conflict with the current state",
    413: "The request is too large",
    414: "The path or query is too long",
    415: "Unsupported content type",
    416: "Range not satisfiable",
    422: "The request is not valid",
    429: "Too many requests",
    500: "Internal error",
    503: "Temporarily unavailable",
}

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
                {"type": "about:blank", "title": "Not found", "status": 404, "detail": "there is no job '5f0c'"}
            ]
        }
    )

    type: str = "about:blank"
    title: str
    """Identical for all errors with this status."""
    status: int
    detail: str
    """Description of the problem and how to fix it, in one line of at most 1,000 characters."""
    errors: list[FieldProblem] | None = None
    """The fields of the request that are not valid."""


class ProblemError(EarshotError):
    """An error to send as the response."""

    def __init__(self, status: int, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers


def problem_response(
    status: int, detail: str, *, headers: Mapping[str, str] | None = None, errors: list[dict[str, str]] | None = None
) -> Response:
    """Return a response with a problem document."""
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": _TITLES.get(status, "The request failed"),
        "status": status,
        "detail": one_line(detail),
    }
    if errors:
        document["errors"] = errors
    return Response(json_text(document), status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the error responses of a route for the OpenAPI document: these, and those common to all routes."""
    return {
        status: {
            "description": _TITLES[status],
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}},
        }
        for status in sorted({400, 401, 403, 413, 414, 422, 429, 503, *statuses})
    }


def install_error_handlers(app: FastAPI) -> None:
    """Install handlers that turn every error into a problem document."""

    @app.exception_handler(ProblemError)
    async def _problem(request: Request, error: ProblemError) -> Response:
        return problem_response(error.status, error.detail, headers=error.headers)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        detail = f"{request.method} {request.url.path[:200]}: {str(error.detail).lower()}"
        return problem_response(error.status_code, detail, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        errors = [
            {"field": one_line(".".join(map(str, item["loc"])), 200), "problem": one_line(str(item["msg"]), 500)}
            for item in error.errors()[:20]
        ]
        return problem_response(422, "; ".join(f"{e['field']}: {e['problem']}" for e in errors), errors=errors)

    @app.exception_handler(Exception)
    async def _bug(request: Request, error: Exception) -> Response:
        return problem_response(500, "an internal error; the log of the service has details under this X-Request-Id")

    _translate(app, JobNotFoundError, 404)
    _translate(app, CursorError, 400)
    _translate(app, PlaceError, 400)
    _translate(app, IdempotencyError, 409)

    @app.exception_handler(RunDirectoryError)
    async def _run(request: Request, error: RunDirectoryError) -> Response:
        # Its message contains a path of the service.
        _log.warning("run directory: %s", error)
        return problem_response(409, "the files of this run cannot be read")

    @app.exception_handler(StoreUnavailableError)
    async def _store(request: Request, error: StoreUnavailableError) -> Response:
        _log.error("store: %s", error)
        return problem_response(503, "the database cannot be reached; try again later", headers={"Retry-After": "2"})


def _translate(app: FastAPI, kind: type[Exception], status: int) -> None:
    @app.exception_handler(kind)
    async def _handle(request: Request, error: Exception) -> Response:
        return problem_response(status, str(error))
