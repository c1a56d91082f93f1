"""`earshot backup` and `earshot restore`: the database and run directories of a service."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import DatabaseUrl, DataDir, Json
from orchestrator.cli.outcome import interrupted
from orchestrator.places import data_directory
from orchestrator.service.backup.backup import Copied, back_up
from orchestrator.service.backup.backup import restore as restored

_NOTHING_LEFT = "the incomplete copy was removed"


def backup(
    destination: Annotated[
        Path, typer.Argument(metavar="DESTINATION", help="Folder for the backup; it must not exist.")
    ],
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    as_json: Json = False,
) -> None:
    """Back up the database and run directories of the service.

    The service and its jobs may keep running.
    """
    with interrupted(_NOTHING_LEFT):
        done = back_up(_folder(data_dir), database_url, destination)
    _show(done, "backed up", as_json)


def restore(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Folder that `earshot backup` wrote.")],
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    as_json: Json = False,
) -> None:
    """Restore a backup into a new data directory.

    Start the service afterwards.
    """
    with interrupted(_NOTHING_LEFT):
        done = restored(source, _folder(data_dir), database_url)
    _show(done, "restored", as_json)


def _folder(data_dir: Path | None) -> Path:
    return (data_dir or data_directory()).expanduser().absolute()


def _show(done: Copied, what: str, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(done)))
    else:
        size = f"{done.bytes / 2**20:,.1f} MiB in {done.files} files"
        typer.echo(f"{done.jobs} jobs and {done.runs} run directories are {what}: {size}, in {done.path}")
