"""Names in the OpenAPI document, which generated clients give to methods and classes.

They are a contract: an operation keeps its id, and a schema its name.
"""

import json
from typing import Any

from fastapi.routing import APIRoute

_IDS = {
    "submit": "submit_job",
    "validate": "validate_job",
    "show": "get_job",
    "cancel": "cancel_job",
    "pause": "pause_job",
    "resume": "resume_job",
    "checkpoint": "checkpoint_job",
    "scale": "scale_job",
    "retry": "retry_job",
    "remove": "delete_job",
    "set_priority": "set_job_priority",
    "version": "get_version",
    "me": "get_me",
    "limits": "get_limits",
    "audit": "list_audit_entries",
}
"""Id of an operation by the name of its function, where that is shorter."""


def operation_id(route: APIRoute) -> str:
    """Return the id of a route's operation: a verb and what it is about."""
    return _IDS.get(route.name, route.name)


def with_plain_names(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document with each schema under its title, which for a generic class is another name than its own."""
    schemas = document["components"]["schemas"]
    renamed = {
        name: title
        for name, schema in schemas.items()
        if (title := schema.get("title", name)) != name and title.isidentifier() and title not in schemas
    }
    document["components"]["schemas"] = {renamed.get(name, name): schema for name, schema in schemas.items()}
    text = json.dumps(document)
    for name, title in renamed.items():
        text = text.replace(f'"#/components/schemas/{name}"', f'"#/components/schemas/{title}"')
    found: dict[str, Any] = json.loads(text)
    return found


_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def name_bounds(document: dict[str, Any]) -> None:
    """Name the bounds of parameters as JSON Schema does: pydantic keeps its own names beside a validator."""
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                whole = parameter["schema"]
                for schema in (whole, *whole.get("anyOf", ())):
                    schema.update({_BOUNDS[name]: schema.pop(name) for name in _BOUNDS.keys() & schema.keys()})


def add_etags(document: dict[str, Any]) -> None:
    """Describe the ETag of the responses that have one."""
    header = {
        "description": "Send it as If-None-Match: the answer is 304, without a body, while nothing has changed.",
        "schema": {"type": "string"},
    }
    for path, operations in document["paths"].items():
        response = operations.get("get", {}).get("responses", {}).get("200", {})
        if path.startswith(("/v1/", "/problems")) and response.get("content", {}).keys() & {
            "application/json",
            "audio/*",
        }:
            response["headers"] = {"ETag": header}
