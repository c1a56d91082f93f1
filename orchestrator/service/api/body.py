"""Request bodies as plain data: JSON or YAML from untrusted clients, with limits on size and depth."""

import asyncio
import json
from typing import Any

from fastapi import Request

from audio_qa.errors import shown
from orchestrator.job.documents import DocumentError, load_untrusted_json, load_untrusted_yaml
from orchestrator.schemas.problem_code import ProblemCode
from orchestrator.service.api.problems import ProblemError
from orchestrator.service.api.settings import ApiSettings

YAML_TYPES = frozenset({"application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml"})


async def read_object(request: Request, settings: ApiSettings) -> dict[str, Any]:
    """Return the object in the body. Raises ProblemError."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" and kind not in YAML_TYPES:
        raise ProblemError(
            ProblemCode.UNSUPPORTED_CONTENT_TYPE,
            f"{shown(kind)} is not supported; send application/json or application/yaml",
        )
    body = await request.body()
    if kind in YAML_TYPES:
        if len(body) > settings.max_yaml_bytes:
            raise ProblemError(
                ProblemCode.BODY_TOO_LARGE, f"YAML may have at most {settings.max_yaml_bytes} bytes; send JSON instead"
            )
        value = await asyncio.to_thread(_yaml, body, settings.max_depth)
    else:
        value = _json(body, settings.max_depth)
    if not isinstance(value, dict):
        raise ProblemError(ProblemCode.INVALID_REQUEST, "the body must be an object")
    return value


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
