"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

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
