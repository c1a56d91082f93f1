"""Parse lines of `metrics.jsonl` into arrays."""

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class MetricRows:
    """The parser of one run's metrics.

    Rows are decoded into a struct with one field per metric: several times faster than into dictionaries, and a table
    follows without a lookup. A metric seen for the first time adds a field.
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._decoder = _decoder(self._names)

    def parse(self, lines: bytes) -> tuple[NDArray[np.int64], dict[str, Floats]]:
        """Return the steps of N rows and N values of each metric, NaN where a row has no number for it.

        Args:
            lines: N lines with their line breaks.

        Raises:
            ValueError, OverflowError, RecursionError: a line is not an object with a step.
        """
        # A JSON document of one line has no line breaks inside.
        array = b"[" + lines[:-1].replace(b"\n", b",") + b"]"
        rows = self._decode(array)
        if len(rows) != lines.count(b"\n"):
            raise ValueError("lines are not objects")
        steps = np.array([row.step for row in rows], np.int64)
        table = _table([msgspec.structs.astuple(row) for row in rows])
        return steps, {name: table[:, i] for i, name in enumerate(self._names, start=1)}

    def _decode(self, array: bytes) -> list[Any]:
        try:
            return self._decoder.decode(array)
        except msgspec.ValidationError:
            found = msgspec.json.decode(array, type=list[dict[str, msgspec.Raw]])
            known = {"step", *self._names}
            new = list(dict.fromkeys(name for row in found for name in row if name not in known))
            if not new:
                raise
        self._names += new
        self._decoder = _decoder(self._names)
        return self._decoder.decode(array)


def _decoder(names: list[str]) -> msgspec.json.Decoder[list[Any]]:
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = [("step", int)]
    fields += [(f"metric_{i}", Any, None) for i in range(len(names))]
    rename = {f"metric_{i}": name for i, name in enumerate(names)}
    row = msgspec.defstruct("Row", fields, rename=rename, forbid_unknown_fields=True, gc=False)
    return msgspec.json.Decoder(list[row])  # type: ignore[valid-type]


def _table(rows: list[tuple[Any, ...]]) -> Floats:
    try:
        return np.array(rows, np.float64)
    except (ValueError, TypeError):
        numbers = [[value if isinstance(value, int | float) else None for value in row] for row in rows]
        return np.array(numbers, np.float64)
