"""HTML pages of the API: the reference from its OpenAPI document, and the kinds of problems.

Invariant: a page loads nothing, runs no script and is readable without either; its policy allows its own style only.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape
from starlette.responses import Response

from orchestrator.display.markup import render_template
from orchestrator.schemas.problem_code import ApiProblemKind, ProblemCode

_PACKAGE = "orchestrator.service.api.replies"
_STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)


def page(html: str) -> Response:
    """Return the response with a page."""
    styles = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in _STYLE.findall(html)
    )
    policy = f"default-src 'none'; style-src {styles}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return Response(html, media_type="text/html", headers={"Content-Security-Policy": policy, "Vary": "Accept"})


def problems_page(kinds: Mapping[ProblemCode, ApiProblemKind]) -> str:
    """Return the page with these kinds of problems."""
    rows = [
        {"code": str(code), "title": kind.title, "status": kind.status, "meaning": kind.meaning}
        for code, kind in kinds.items()
    ]
    title, state = (rows[0]["title"], rows[0]["code"]) if len(rows) == 1 else ("Problems", f"{len(rows)} codes")
    note = "Every error of the API has one of these codes in its field code. Programs branch on it; codes may be added."
    return render_template("problems.html.j2", _PACKAGE, title=title, state=state, note=note, kinds=rows, code=_code)


def reference_page(document: Mapping[str, Any]) -> str:
    """Return the reference from an OpenAPI document."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            groups.setdefault(operation["tags"][0], []).append(_operation(method, path, operation))
    return render_template(
        "reference.html.j2",
        _PACKAGE,
        title="API reference",
        state=f"version {document['info']['version']}",
        description=_paragraphs(document["info"]["description"]),
        groups=[{"name": name, "operations": operations} for name, operations in groups.items()],
        schemas=[_schema(name, schema) for name, schema in sorted(document["components"]["schemas"].items())],
        code=_code,
    )


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> dict[str, Any]:
    parameters = [
        {
            "name": parameter["name"],
            "note": parameter["in"],
            "type": _type(parameter["schema"]),
            "text": _described(parameter.get("description", ""), parameter["schema"]),
        }
        for parameter in operation.get("parameters", ())
    ]
    return {
        "id": operation["operationId"],
        "method": method.upper(),
        "path": path,
        "summary": operation["summary"],
        "text": _paragraphs(operation.get("description", "")),
        "parameters": parameters,
        "body": _content_type(operation.get("requestBody", {})),
        "responses": [
            {
                "status": status,
                "type": [] if int(status) >= 400 else _content_type(response),
                "text": response["description"] if int(status) < 400 else "",
                "problems": response.get("x-problem-codes", ()),
            }
            for status, response in sorted(operation["responses"].items())
        ],
        "example": _example(operation["responses"]),
    }


def _example(responses: Mapping[str, Any]) -> str:
    """Return the example of a stream, which has no schema with examples."""
    for response in responses.values():
        for content in response.get("content", {}).values():
            if isinstance(content.get("example"), str):
                return str(content["example"])
    return ""


def _schema(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    required = set(schema.get("required", ()))
    fields = [
        {
            "name": field,
            "note": "required" if field in required and "default" not in value else "",
            "type": _type(value),
            "text": _described(value.get("description", ""), value),
        }
        for field, value in schema.get("properties", {}).items()
    ]
    return {
        "name": name,
        "text": _paragraphs(schema.get("description", "")),
        "fields": fields,
        "choices": schema.get("enum", ()),
    }


def _content_type(body: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the type of a body in each of its forms, those of the same type together."""
    kinds: dict[str, tuple[list[dict[str, str]], list[str]]] = {}
    for kind, content in body.get("content", {}).items():
        schema = content.get("schema", {})
        kinds.setdefault(json.dumps(schema), (_type(schema), []))[1].append(kind)
    forms = [[*found, {"text": f" as {' or '.join(names)}", "link": ""}] for found, names in kinds.values()]
    return _joined(forms, ", ")


def _type(schema: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return a type as parts of a text, some of which link to a schema."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return [{"text": name, "link": name}]
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            return _joined([_type(part) for part in schema[choice]], " or ")
    if schema.get("type") == "array":
        return [{"text": "list of ", "link": ""}, *_type(schema.get("items", {}))]
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return [{"text": ", ".join(str(value) for value in values), "link": ""}]
    text = str(schema.get("type", "any"))
    return [{"text": f"{text} ({schema['format']})" if "format" in schema else text, "link": ""}]


def _joined(types: Sequence[list[dict[str, str]]], between: str) -> list[dict[str, str]]:
    parts: list[dict[str, str]] = []
    for found in types:
        parts += [{"text": between, "link": ""}, *found] if parts else found
    return parts


def _described(text: str, schema: Mapping[str, Any]) -> str:
    """Return a description with the default and the bounds, which a schema has as data."""
    plain = [schema, *schema.get("anyOf", ())]
    notes = [
        f"{word} {part[key]}."
        for key, word in (("default", "Default:"), ("minimum", "Least:"), ("maximum", "Most:"))
        for part in plain
        if part.get(key) is not None
    ]
    return " ".join([text, *notes]).strip()


def _paragraphs(text: str) -> list[str]:
    return [" ".join(part.split()) for part in text.strip().split("\n\n") if part.strip()]


def _code(text: str) -> Markup:
    """Return text with `code` in backticks as HTML."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if i % 2 else escape(part) for i, part in enumerate(parts)
    )
