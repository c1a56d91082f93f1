"""Request bodies as plain data: JSON or YAML from untrusted clients, with limits on size and depth."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from audio_qa.errors import shown
from orchestrator.job.documents import DocumentError, load_untrusted_json, load_untrusted_yaml
from orchestrator.schemas.problem_code import ProblemCode
from orchestrator.service.api.problems import ProblemError
from orchestrator.service.api.settings import ApiSettings

Model = TypeVar("Model", bound=BaseModel)
_LARGE_BYTES = 16 * 1024
"""Larger bodies would delay other requests while they are parsed."""
_MOST_VALUES = 5_000
"""A job has far fewer. Each costs time, in YAML twenty times as much as in JSON."""
_MOST_BRACKETS = 1_000
"""Opening ones, in text too. The measuring of the depth of more would hold the interpreter for a tenth of a second."""
# One at a time: several threads that compute would delay the event loop more than one.
_parser = ThreadPoolExecutor(1, "parser")
YAML_TYPES = frozenset({"application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml"})


async def read_object(request: Request, settings: ApiSettings) -> dict[str, Any]:
    """Return the object in the body. Raises ProblemError."""
    if not hasattr(request.state, "body_object"):
        request.state.body_object = await _read_object(request, settings)
    value: dict[str, Any] = request.state.body_object
    return value


async def _read_object(request: Request, settings: ApiSettings) -> dict[str, Any]:
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" and kind not in YAML_TYPES:
        raise ProblemError(
            ProblemCode.UNSUPPORTED_CONTENT_TYPE,
            f"{shown(kind)} is not supported; send application/json or application/yaml",
        )
    body = await request.body()
    if body.count(b"[") + body.count(b"{") > _MOST_BRACKETS:
        raise ProblemError(ProblemCode.BODY_TOO_LARGE, f"the body may have at most {_MOST_BRACKETS} opening brackets")
    if kind in YAML_TYPES:
        if len(body) > settings.max_yaml_bytes:
            raise ProblemError(
                ProblemCode.BODY_TOO_LARGE, f"YAML may have at most {settings.max_yaml_bytes} bytes; send JSON instead"
            )
        if body.count(b"\n") + body.count(b",") + body.count(b":") > _MOST_VALUES:
            raise ProblemError(ProblemCode.BODY_TOO_LARGE, f"YAML may have at most {_MOST_VALUES} lines and values")
        value = await asyncio.get_running_loop().run_in_executor(_parser, _yaml, body, settings.max_depth)
    elif body.count(b",") > _MOST_VALUES:
        raise ProblemError(ProblemCode.BODY_TOO_LARGE, f"the body may have at most {_MOST_VALUES} values")
    elif len(body) > _LARGE_BYTES:
        value = await asyncio.get_running_loop().run_in_executor(_parser, _json, body, settings.max_depth)
    else:
        value = _json(body, settings.max_depth)
    if not isinstance(value, dict):
        raise ProblemError(ProblemCode.INVALID_REQUEST, "the body must be an object")
    return value


async def read_model(request: Request, settings: ApiSettings, model: type[Model]) -> Model:
    """Return the object in the body as a model. Raises ProblemError, RequestValidationError."""
    value = await read_object(request, settings)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems = [{**item, "loc": ("body", *item["loc"])} for item in error.errors()]
        raise RequestValidationError(problems) from error


def _json(body: bytes, max_depth: int) -> Any:
    try:
        return _checked(load_untrusted_json(body, max_depth))
    except DocumentError as error:
        raise ProblemError(ProblemCode.MALFORMED_BODY, f"body: {error}") from error


def _yaml(body: bytes, max_depth: int) -> Any:
    try:
        return _checked(load_untrusted_yaml(body.decode(), max_depth))
    except UnicodeDecodeError as error:
        raise ProblemError(ProblemCode.MALFORMED_BODY, "body: not text in UTF-8") from error
    except DocumentError as error:
        raise ProblemError(ProblemCode.MALFORMED_BODY, f"body: {error}") from error


def _checked(value: Any) -> Any:
    """Return the value if a database can store all of its strings. Raises ProblemError."""
    if "\\u0000" in json.dumps(value):
        raise ProblemError(ProblemCode.MALFORMED_BODY, "the body contains a zero byte")
    return value
