"""Options that several commands have, and the check of their numbers."""

import math
from pathlib import Path
from typing import Annotated

import typer

LONGEST_DAYS = 36_500
"""Longest time that an option in days may name: dates end with the year 9999."""


LARGEST_SEED = 2**31 - 1
LARGEST_COUNT = 2**32
"""Most questions, seconds or tokens that an option may name; a job file has the same bound."""
LARGEST_STEP = 2**53
MOST_GPUS = 64
"""Most GPUs of a worker, as in a job file."""


def finite(value: float | None) -> float | None:
    """Return the number of an option; every option with a float has this as its callback.

    Raises BadParameter for `nan`, which passes the bounds of any range, and for `inf`.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


def part_or_whole(value: float | None) -> float | None:
    """Return the number of GPUs of a worker. Raises BadParameter for one that is neither whole nor below 1."""
    if (value := finite(value)) is not None and value > 1 and not value.is_integer():
        raise typer.BadParameter(f"{value:g} is neither part of one GPU nor a whole number")
    return value


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout, and nothing else there.")]

JobId = Annotated[str, typer.Argument(metavar="JOB", help="Job id, as `earshot jobs` lists it.")]
Url = Annotated[
    str | None, typer.Option("--url", envvar="EARSHOT_URL", help="URL of the service. Default: this machine.")
]

DataDir = Annotated[
    Path | None,
    typer.Option(help="Data directory of the service. Default: $EARSHOT_DATA, or ~/.local/share/earshot."),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(envvar="EARSHOT_DATABASE_URL", help="Database, postgresql://… Default: a file in the data directory."),
]
