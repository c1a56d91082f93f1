"""Default addresses, ports and folders."""

import logging
import os
from pathlib import Path

from platformdirs import user_cache_path, user_data_path

HOST = "127.0.0.1"
PORT = 8420
"""Address of the service."""
DATABASE = "earshot.db"
"""Name of the default database in the data directory."""
RAY_PORT, RAY_DASHBOARD_PORT = 6379, 8265
"""Ports of the head of a cluster that `earshot cluster` starts; Ray's defaults."""

_log = logging.getLogger(__name__)


def data_directory() -> Path:
    """Return `$EARSHOT_DATA`, or `earshot` in the user's data directory (on Linux `$XDG_DATA_HOME`)."""
    given = os.environ.get("EARSHOT_DATA")
    return Path(given) if given else user_data_path("earshot", appauthor=False)


def cache_directory() -> Path:
    """Return `$EARSHOT_CACHE`, or `earshot` in the user's cache directory (on Linux `$XDG_CACHE_HOME`)."""
    given = os.environ.get("EARSHOT_CACHE")
    return Path(given) if given else user_cache_path("earshot", appauthor=False)


def database_of(data_dir: Path) -> str:
    """Return the URL of the default database, a file in the data directory."""
    return f"sqlite:///{data_dir.absolute() / DATABASE}"


def runs_of(data_dir: Path) -> Path:
    """Return the folder of the run directories."""
    return data_dir.absolute() / "runs"


def examples_folder() -> Path:
    """Return the folder of the examples: inside the package if installed, next to the packages in a checkout."""
    inside = Path(__file__).parent / "examples"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "examples"


def keep_private(file: Path) -> None:
    """Let only its owner read and write a file that others may; one of another user is left as it is, and logged."""
    try:
        found = file.stat()
        if not found.st_mode & 0o077:
            return
        file.chmod(found.st_mode & 0o700)
    except FileNotFoundError:
        return
    except OSError as error:
        _log.warning("other users may read %s, and its permissions cannot be changed: %s", file, error.strerror)
    else:
        _log.warning("other users could read %s; now only its owner can", file)
