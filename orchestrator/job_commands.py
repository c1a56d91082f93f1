"""Commands to a running job: scale, pause, resume, checkpoint, cancel. A job is named by its run directory."""

import json
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.commands import CommandError, CommandKind, send
from orchestrator.run_directory import RunDirectory, RunDirectoryError

Job = Annotated[Path, typer.Argument(help="The run directory of the job.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""

    @app.command()
    def scale(
        job: Job, count: Annotated[int, typer.Argument(help="Rollout workers; 0 to have none.")], as_json: Json = False
    ) -> None:
        """Have a running job use another number of rollout workers."""
        _tell(job, CommandKind.SCALE, as_json, count)

    @app.command()
    def pause(job: Job, as_json: Json = False) -> None:
        """Have a running job wait behind its step."""
        _tell(job, CommandKind.PAUSE, as_json)

    @app.command()
    def resume(job: Job, as_json: Json = False) -> None:
        """Let a paused job go on."""
        _tell(job, CommandKind.RESUME, as_json)

    @app.command()
    def checkpoint(job: Job, as_json: Json = False) -> None:
        """Have a running job write a checkpoint behind its step."""
        _tell(job, CommandKind.CHECKPOINT, as_json)

    @app.command()
    def cancel(job: Job, as_json: Json = False) -> None:
        """End a running job; `earshot run --resume` goes on with it from its last checkpoint."""
        _tell(job, CommandKind.CANCEL, as_json)


def _tell(job: Path, kind: CommandKind, as_json: bool, count: int | None = None) -> None:
    try:
        run = RunDirectory(job)
        if not run.is_written():
            raise RunDirectoryError(run.path, f"no process runs this job, so there is nothing to {kind.value}")
        identifier = send(run, kind, count=count, by="earshot")
    except (RunDirectoryError, CommandError) as error:
        typer.echo(f"earshot: {error}", err=True)
        raise typer.Exit(2) from error
    if as_json:
        typer.echo(
            json.dumps({"id": identifier, "command": kind.value, "count": count, "run_dir": str(run.path.resolve())})
        )
    else:
        typer.echo(f"The job was told to {kind.value}{'' if count is None else f' to {count} rollout workers'}.")
