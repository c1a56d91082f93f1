"""Immutable mappings for fields of settings: validated, compared and dumped like a dict."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, GetCoreSchemaHandler, PlainSerializer
from pydantic_core import core_schema

K = TypeVar("K")
V_co = TypeVar("V_co", covariant=True)
T = TypeVar("T")


class FrozenMapping(Mapping[K, V_co]):
    """A copy of a mapping that cannot be changed. Equal to a dict with the same items; hashable if its values are."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[K, V_co]) -> None:
        self._items = MappingProxyType(dict(items))

    def __getitem__(self, key: K) -> V_co:
        return self._items[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return repr(dict(self._items))

    def __reduce__(self) -> tuple[type["FrozenMapping[K, V_co]"], tuple[dict[K, V_co]]]:
        return FrozenMapping, (dict(self._items),)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Let pydantic dump it by its type alone, as it does for the defaults in a JSON schema."""
        return core_schema.no_info_plain_validator_function(
            freeze, serialization=core_schema.plain_serializer_function_ser_schema(thaw)
        )


def freeze(value: Any) -> Any:
    """Return plain data with its dicts as FrozenMapping and its lists as tuples, at every depth."""
    if isinstance(value, Mapping):
        return FrozenMapping({key: freeze(item) for key, item in value.items()})
    return tuple(map(freeze, value)) if isinstance(value, list | tuple) else value


def thaw(value: Any) -> Any:
    """Return frozen data as dicts and lists: a copy that may be changed or written as JSON."""
    if isinstance(value, Mapping):
        return {key: thaw(item) for key, item in value.items()}
    return [thaw(item) for item in value] if isinstance(value, list | tuple) else value


Frozen = Annotated[T, BeforeValidator(thaw), AfterValidator(freeze), PlainSerializer(thaw)]
"""`Frozen[Mapping[K, V]]`: a field whose value is a FrozenMapping, and a dict where it is dumped."""
