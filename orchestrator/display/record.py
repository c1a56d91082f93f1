"""Numbers in the records of a run, any of which may be missing or malformed."""

from collections.abc import Mapping
from typing import Any

Record = Mapping[str, Any]


def number_in(record: Record, name: str) -> float | None:
    """Return the number of that name; None if it is missing, not a number, or implausibly large."""
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e100 else None


def share_in(record: Record, name: str) -> float | None:
    """Return the number of that name, limited to the range from 0 to 1."""
    value = number_in(record, name)
    return None if value is None else min(1.0, max(0.0, value))
