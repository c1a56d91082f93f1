"""Loads YAML and JSON documents: a duplicate key is an error, where the parsers would keep the last one silently."""

import json
import re
from collections.abc import Hashable
from typing import Any

import yaml

from audio_qa.errors import InputError

_JSON_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_LONGEST_KEY = 100


class DocumentError(InputError):
    """A YAML or JSON document that cannot be loaded. The message is one line."""


def load_yaml(text: str) -> Any:
    """Return the data of a YAML document. Raises DocumentError."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise DocumentError(f"not valid YAML: {_one_line(error)}") from error


def load_json(text: str) -> Any:
    """Return the data of a JSON document. Raises DocumentError."""
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise DocumentError(f"not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"not valid JSON: {error}") from error


def load_untrusted_yaml(text: str, max_depth: int) -> Any:
    """Return the data of a YAML document that anybody may have written.

    Raises:
        DocumentError: it is nested deeper than `max_depth`, has an alias (a small text can become a huge value), a key
            that is not text, or a value that JSON does not have.
    """
    try:
        loader = _UntrustedLoader(text, max_depth)
        try:
            value = loader.get_single_data()
        finally:
            loader.dispose()
        # Refuses dates and sets.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except DocumentError:
        raise
    except Exception as error:  # PyYAML's parsers of dates, numbers and tags raise any class
        raise DocumentError(f"not YAML that JSON could express: {_one_line(error)}") from error
    return value


def load_untrusted_json(text: bytes, max_depth: int) -> Any:
    """Return the data of a JSON document that anybody may have written.

    Raises:
        DocumentError: it is nested deeper than `max_depth`, has NaN or Infinity, or half of a surrogate pair.
    """
    if _depth(text) > max_depth:
        raise DocumentError(f"nested more than {max_depth} deep")
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
        # JSON can hold half of a surrogate pair, a database cannot.
        json.dumps(value, ensure_ascii=False).encode()
    except DocumentError:
        raise
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"not JSON: {error}") from error
    return value


class _Loader(yaml.SafeLoader):
    """Refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first_lines: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, Hashable):
                continue  # the base class refuses it
            if key in first_lines:
                raise DocumentError(f"duplicate key {_short(key)} in line {line}, first in line {first_lines[key]}")
            first_lines[key] = line
        return super().construct_mapping(node, deep=deep)


class _UntrustedLoader(_Loader):
    """Refuses aliases, deep nesting and keys that are not text, too."""

    def __init__(self, text: str, max_depth: int) -> None:
        super().__init__(text)
        self._max_depth, self._depth = max_depth, 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise DocumentError("YAML aliases are not accepted: write the value out")
        self._depth += 1
        if self._depth > self._max_depth:
            raise DocumentError(f"nested more than {self._max_depth} deep")
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise DocumentError(f"the key {_short(key)} is not text")
        return super().construct_mapping(node, deep=deep)


def _one_line(error: Exception) -> str:
    """Return the message of PyYAML without the name that it gives a document from memory."""
    return re.sub(r'in "<[\w ]+>", ', "in ", " ".join(str(error).split()))


def _depth(text: bytes) -> int:
    depth = deepest = 0
    for character in re.findall(rb"[\[{\]}]", _JSON_STRINGS.sub(b"", text)):
        depth += 1 if character in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, item in pairs:
        if key in value:
            raise DocumentError(f"duplicate key {_short(key)}")
        value[key] = item
    return value


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"{constant} is not a JSON number")


def _short(key: object) -> str:
    return repr(key[:_LONGEST_KEY] if isinstance(key, str) else str(key)[:_LONGEST_KEY])
