"""`earshot backup` and `earshot restore`: a service's database and run directories, where they are."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.service.link import Json, fail
from orchestrator.cli.token import DatabaseUrl, DataDir
from orchestrator.places import data_directory

if TYPE_CHECKING:  # a database takes a moment to import
    from orchestrator.service.backup.backup import Copied


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""

    @app.command()
    def backup(
        destination: Annotated[Path, typer.Argument(help="A new folder.")],
        data_dir: DataDir = None,
        database_url: DatabaseUrl = None,
        as_json: Json = False,
    ) -> None:
        """Copy the service's database and run directories; the service and its jobs may run meanwhile."""
        from orchestrator.service.backup.backup import back_up  # noqa: PLC0415

        done = _guarded(lambda: back_up(_folder(data_dir), database_url, destination))
        _show(done, "backed up", as_json)

    @app.command()
    def restore(
        source: Annotated[Path, typer.Argument(help="A folder that `earshot backup` made.")],
        data_dir: DataDir = None,
        database_url: DatabaseUrl = None,
        as_json: Json = False,
    ) -> None:
        """Make a data directory of a backup, where there is none. Start the service behind it."""
        from orchestrator.service.backup.backup import restore as make  # noqa: PLC0415

        done = _guarded(lambda: make(source, _folder(data_dir), database_url))
        _show(done, "restored", as_json)


def _folder(data_dir: Path | None) -> Path:
    return (data_dir or data_directory()).expanduser().absolute()


def _guarded(action: Callable[[], "Copied"]) -> "Copied":
    from orchestrator.service.backup.database_copy import BackupError  # noqa: PLC0415
    from orchestrator.service.store.store import DatabaseUrlError, StoreUnavailableError  # noqa: PLC0415

    try:
        return action()
    except (BackupError, DatabaseUrlError) as error:
        fail(str(error), 2)
    except (StoreUnavailableError, OSError) as error:
        fail(str(error), 1)
    except KeyboardInterrupt:
        fail("interrupted; nothing is left of it", 130)


def _show(done: "Copied", what: str, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(done)))
    else:
        size = f"{done.bytes / 2**20:,.1f} MiB in {done.files} files"
        typer.echo(f"{done.jobs} jobs and {done.runs} run directories are {what}: {size}, in {done.path}")
