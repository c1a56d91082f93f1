"""Query parameters that a route does not take are refused: a misspelt filter must not return everything.

The parameters are those that the function of the route declares, so a new route needs nothing for it.
"""

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, get_args, get_origin

from fastapi import Request
from fastapi.dependencies.utils import get_flat_params
from fastapi.exceptions import RequestValidationError
from fastapi.params import Query
from fastapi.routing import APIRoute

from audio_qa.errors import shown
from orchestrator.schemas.problem_code import ProblemCode
from orchestrator.service.api.problems import ProblemError


async def check_parameters(request: Request) -> None:
    """Check the names of the query parameters, a dependency of every route.

    Raises:
        ProblemError: the route does not take one of them.
        RequestValidationError: one is given twice, and the route takes one value.
    """
    given = request.query_params.multi_items()
    route = request.scope.get("route")
    if not given or not isinstance(route, APIRoute):
        return
    known = _parameters(route)
    seen: set[str] = set()
    for name, _ in given:
        if name not in known:
            raise ProblemError(ProblemCode.UNKNOWN_PARAMETER, _unknown(name, sorted(known)))
        if name in seen and not known[name]:
            problem = {"type": "repeated", "loc": ("query", name), "msg": "is given twice; send it once"}
            raise RequestValidationError([problem])
        seen.add(name)


_KNOWN: dict[Callable[..., Any], dict[str, bool]] = {}
"""By the function of a route: reading the declarations takes as long as a small request."""


def _parameters(route: APIRoute) -> dict[str, bool]:
    """Return the query parameters of a route, and whether each may be given several times."""
    known = _KNOWN.get(route.endpoint)
    if known is None:
        fields = [field for field in get_flat_params(route.dependant) if isinstance(field.field_info, Query)]
        known = _KNOWN[route.endpoint] = {field.alias: _is_list(field.field_info.annotation) for field in fields}
    return known


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) is list or any(get_origin(part) is list for part in get_args(annotation))


def _unknown(name: str, known: list[str]) -> str:
    if not known:
        return f"{shown(name)} is not a parameter of this route, which takes none; leave it out"
    near = get_close_matches(name.lower()[:64], known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{shown(name)} is not a parameter of this route; {hint}it takes {', '.join(known)}"
