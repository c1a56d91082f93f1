"""Loads YAML and JSON documents, and dumps YAML.

The parsers take some text silently for what nobody means: of a duplicate key they keep the last value, and YAML 1.1
reads 0100 as 64, 1:30 as 90 and 1e3 as text. Here the first three are errors, and 1e3 is a number, as in JSON.
"""

import json
import math
import re
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import yaml
from yaml.constructor import ConstructorError
from yaml.reader import ReaderError

from audio_qa.errors import InputError, one_line, shown

_JSON_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_LONGEST_PROBLEM = 400
_LONGEST_NUMBER = 400
"""Most characters of a number."""
_MOST_VALUES = 1_000_000
"""Most values of a document with its aliases written out."""
_MOST_MERGED = 10_000
"""Largest mapping that others are merged into: PyYAML walks through it again at every merge."""
_TOO_DEEP = "nested too deep"
_TOO_LARGE = "its aliases make it endless or too large: write the values out"
_MERGE = "tag:yaml.org,2002:merge"
_FLOAT = "tag:yaml.org,2002:float"
_EXPONENT = re.compile(r"[-+]?(?:[0-9]+\.?|[0-9]*\.[0-9]+)[eE][-+]?[0-9]+$")
"""Numbers that YAML 1.1 takes for text, because they have no point or no sign in the exponent."""

Number = TypeVar("Number", int, float)


class DocumentError(InputError):
    """A YAML or JSON document that cannot be loaded. The message is one line."""


def load_yaml(text: str) -> Any:
    """Return the data of a YAML document. Raises DocumentError."""
    try:
        value = yaml.load(text, Loader=_Loader)
    except DocumentError:
        raise
    except Exception as error:  # PyYAML's parsers of dates, numbers and tags raise any class
        raise DocumentError(f"not valid YAML: {_explained(error, text)}") from error
    if _size(value, {}) > _MOST_VALUES:
        raise DocumentError(_TOO_LARGE)
    return value


def load_json(text: str) -> Any:
    """Return the data of a JSON document. Raises DocumentError."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_int=_integer)
    except DocumentError:
        raise
    except json.JSONDecodeError as error:
        raise DocumentError(f"not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}") from error
    except RecursionError as error:
        raise DocumentError(f"not valid JSON: {_TOO_DEEP}") from error


def dump_yaml(value: Any) -> str:
    """Return plain data as a YAML document that `load_yaml` reads."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


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
        raise DocumentError(f"not YAML that JSON could express: {_explained(error, text)}") from error
    return value


def load_untrusted_json(text: bytes, max_depth: int) -> Any:
    """Return the data of a JSON document that anybody may have written.

    Raises:
        DocumentError: it is nested deeper than `max_depth`, has a number that is not finite (NaN, Infinity, 1e999), or
            half of a surrogate pair.
    """
    if _depth(text) > max_depth:
        raise DocumentError(f"nested more than {max_depth} deep")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_float=_finite_number,
            parse_constant=_refuse_constant,
        )
        # JSON can hold half of a surrogate pair, a database cannot.
        json.dumps(value, ensure_ascii=False).encode()
    except DocumentError:
        raise
    except UnicodeEncodeError as error:
        raise DocumentError("not JSON: it has half of a surrogate pair") from error
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"not JSON: {_explained(error, '')}") from error
    return value


class _Loader(yaml.SafeLoader):
    """Refuses duplicate keys, and numbers that would be other ones."""

    _finite_only = False

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Construct a value; every error has the line of its node."""
        try:
            return super().construct_object(node, deep=deep)
        except DocumentError:
            raise
        except (ValueError, OverflowError) as error:
            raise ConstructorError(None, None, str(error), node.start_mark) from error

    def construct_int(self, node: yaml.ScalarNode) -> int:
        """Construct a whole number."""
        return self._checked(node, super().construct_yaml_int)

    def construct_float(self, node: yaml.ScalarNode) -> float:
        """Construct a number."""
        return self._checked(node, super().construct_yaml_float)

    def _checked(self, node: yaml.ScalarNode, construct: Callable[[yaml.ScalarNode], Number]) -> Number:
        if len(node.value) > _LONGEST_NUMBER:
            raise ValueError(f"a number of {len(node.value):,} digits: write a smaller one")
        value = construct(node)
        if self._finite_only:
            _check_finite(node.value, value)
        if ":" in node.value or re.fullmatch(r"[-+]?0[0-9_]+", node.value):
            raise ValueError(
                f"{shown(node.value)} would be read as {shown(value)}: write a number without a colon or a zero before "
                "it, or text in quotes"
            )
        return value

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping. Its keys are compared here, because merging (`<<`) may later repeat them on purpose."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        first_lines: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, Hashable):
                continue  # the base class refuses it
            if key in first_lines:
                raise DocumentError(f"duplicate key {shown(key)} in line {line}, first in line {first_lines[key]}")
            first_lines[key] = line
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge mappings into one."""
        super().flatten_mapping(node)
        if len(node.value) > _MOST_MERGED:
            raise DocumentError(_TOO_LARGE)


class _UntrustedLoader(_Loader):
    """Refuses aliases, deep nesting, keys that are not text and numbers that are not finite, too."""

    _finite_only = True

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
                raise DocumentError(f"the key {shown(key)} is not text")
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Puts text in quotes that `_Loader` would take for a number."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(_FLOAT, _EXPONENT, list("-+.0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_int)
_Loader.add_constructor(_FLOAT, _Loader.construct_float)


def _explained(error: Exception, text: str) -> str:
    """Return what a parser found, with line and column."""
    if isinstance(error, RecursionError):
        return _TOO_DEEP
    if isinstance(error, ReaderError):
        before = text[: error.position]
        column = len(before) - before.rfind("\n")
        return f"the character {shown(chr(error.character))} in line {before.count(chr(10)) + 1}, column {column}"
    # Without the name that PyYAML gives a document from memory.
    found = re.sub(r'in "<[\w ]+>", ', "in ", one_line(str(error), _LONGEST_PROBLEM))
    return f"{found} (indent with spaces)" if r"found character '\t'" in found else found


def _size(value: Any, sizes: dict[int, float]) -> float:
    """Return the number of values in a document with its aliases written out; infinity if it contains itself."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in sizes:
        sizes[id(value)] = math.inf
        sizes[id(value)] = 1 + sum(
            _size(part, sizes) for part in (value.values() if isinstance(value, dict) else value)
        )
    return sizes[id(value)]


def _integer(text: str) -> int:
    if len(text) > _LONGEST_NUMBER:
        raise DocumentError(f"a number of {len(text):,} digits: write a smaller one")
    return int(text)


def _finite_number(text: str) -> float:
    value = float(text)
    _check_finite(text, value)
    return value


def _check_finite(text: str, value: float) -> None:
    """Raise DocumentError for a number that JSON does not have, or that is read as infinite: 1e999."""
    if isinstance(value, float) and not math.isfinite(value):
        raise DocumentError(f"{shown(text)} is not a finite number: write one of at most 1e308")


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
            raise DocumentError(f"duplicate key {shown(key)}")
        value[key] = item
    return value


def _refuse_constant(constant: str) -> float:
    raise DocumentError(f"{constant} is not a JSON number: write a finite one")
