"""The real question files, which no repository holds: `shared/data` beside the checkout, or under EARSHOT_SHARED."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("EARSHOT_SHARED", Path(__file__).parents[3] / "shared"))


def shared_file(name: str) -> Path:
    """Return the path of a real question file; skip the test if it is missing."""
    path = SHARED / "data" / name
    if not path.is_file():
        pytest.skip(f"{path} is not there; EARSHOT_SHARED names the folder that holds data/{name}")
    return path
