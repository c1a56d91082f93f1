"""The body of a request as plain data, whatever somebody sends: JSON or YAML, of bounded size and depth."""

import asyncio
import json
import re
from typing import Any

import yaml
from fastapi import Request

from orchestrator.service.api.problems import ProblemError
from orchestrator.service.api.settings import ApiSettings

_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
YAML_TYPES = frozenset({"application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml"})


async def read_object(request: Request, settings: ApiSettings) -> dict[str, Any]:
    """The object in the body. Raises ProblemError."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" and kind not in YAML_TYPES:
        raise ProblemError(415, f"{kind[:100]!r} is not taken; send application/json or application/yaml")
    body = await request.body()
    if kind in YAML_TYPES:
        if len(body) > settings.most_yaml_bytes:
            raise ProblemError(413, f"YAML may have {settings.most_yaml_bytes} bytes; send JSON")
        value = await asyncio.to_thread(_yaml, body, settings.most_depth)
    else:
        value = _json(body, settings.most_depth)
    if not isinstance(value, dict):
        raise ProblemError(422, "the body is not an object with keys")
    return value


def _json(body: bytes, most_depth: int) -> Any:
    if _depth(body) > most_depth:
        raise ProblemError(400, f"the body is nested more than {most_depth} deep")
    try:
        value = json.loads(body, object_pairs_hook=_unique, parse_constant=_refuse)
        # Half a surrogate pair can be written in JSON and in no database.
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ProblemError(400, f"the body is not JSON: {error}") from error
    return _checked(value)


def _depth(body: bytes) -> int:
    depth = most = 0
    for character in re.findall(rb"[\[{\]}]", _STRINGS.sub(b"", body)):
        depth += 1 if character in b"[{" else -1
        most = max(most, depth)
    return most


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice[:100]!r} stands twice")
    return value


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON number")


class _Plain(yaml.SafeLoader):
    """YAML without aliases, which make a small text a huge value, and with each key once."""

    def __init__(self, text: str, most_depth: int) -> None:
        super().__init__(text)
        self._most, self._deep = most_depth, 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ProblemError(400, "YAML aliases are not taken: write the value out")
        self._deep += 1
        if self._deep > self._most:
            raise ProblemError(400, f"the body is nested more than {self._most} deep")
        try:
            return super().compose_node(parent, index)
        finally:
            self._deep -= 1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if not isinstance(key, str):
                raise ProblemError(400, f"the key {str(key)[:100]!r} is no string")
        _unique([(key, None) for key in keys])
        return super().construct_mapping(node, deep=deep)


def _yaml(body: bytes, most_depth: int) -> Any:
    try:
        loader = _Plain(body.decode(), most_depth)
        try:
            value = loader.get_single_data()
        finally:
            loader.dispose()
        # Dates and sets are no JSON.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except ProblemError:
        raise
    except Exception as error:  # PyYAML's readers of dates, numbers and tags raise whatever they meet
        raise ProblemError(400, f"the body is not YAML that JSON could say: {error}") from error
    return _checked(value)


def _checked(value: Any) -> Any:
    """The value, if a database can hold all of its strings. Raises ProblemError."""
    if "\\u0000" in json.dumps(value):
        raise ProblemError(400, "the body holds a zero byte")
    return value
