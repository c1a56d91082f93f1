"""Where what is built in is kept between runs: the tiny model, the synthetic benchmark."""

import os
from pathlib import Path


def cache_directory() -> Path:
    """`$EARSHOT_CACHE`, or `earshot` in the user's cache directory."""
    given = os.environ.get("EARSHOT_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "earshot"
