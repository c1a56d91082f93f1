"""Commands to a running job: scale, pause, resume, checkpoint, cancel.

A job is named by its id, where the service runs it, or by its run directory, where `earshot run` does.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.service.link import Json, Url, fail, service, show
from orchestrator.run.commands import CommandError, CommandKind, send
from orchestrator.run.directory import RunDirectory
from orchestrator.run.records import RunDirectoryError

if TYPE_CHECKING:  # httpx and the models take a moment, which --help need not wait for
    from orchestrator.client import CommandView, EarshotClient, JobView

Job = Annotated[str, typer.Argument(help="The id of a job of the service, or a run directory.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""

    @app.command()
    def scale(
        job: Job,
        count: Annotated[int, typer.Argument(help="Rollout workers; 0 to have none.")],
        url: Url = None,
        as_json: Json = False,
    ) -> None:
        """Have a running job use another number of rollout workers."""
        _tell(job, CommandKind.SCALE, url, as_json, count)

    @app.command()
    def pause(job: Job, url: Url = None, as_json: Json = False) -> None:
        """Have a running job wait behind its step."""
        _tell(job, CommandKind.PAUSE, url, as_json)

    @app.command()
    def resume(job: Job, url: Url = None, as_json: Json = False) -> None:
        """Let a paused job go on."""
        _tell(job, CommandKind.RESUME, url, as_json)

    @app.command()
    def checkpoint(job: Job, url: Url = None, as_json: Json = False) -> None:
        """Have a running job write a checkpoint behind its step."""
        _tell(job, CommandKind.CHECKPOINT, url, as_json)

    @app.command()
    def cancel(job: Job, url: Url = None, as_json: Json = False) -> None:
        """End a job; `earshot run --resume` goes on with one from its last checkpoint."""
        _tell(job, CommandKind.CANCEL, url, as_json)


def _tell(job: str, kind: CommandKind, url: str | None, as_json: bool, count: int | None = None) -> None:
    words = f"told to {kind.value}{'' if count is None else f' to {count} rollout workers'}."
    if _is_run_directory(job):
        _write(Path(job), kind, as_json, count, words)
        return
    with service(url) as client:
        answer = _ask(client, job, kind, count)
    show(answer, as_json, f"The job was {words}")


def _is_run_directory(job: str) -> bool:
    """An id has no slash, and there is no folder of its name here."""
    return "/" in job or Path(job).is_dir()


def _ask(client: "EarshotClient", job: str, kind: CommandKind, count: int | None) -> "CommandView | JobView":
    match kind:
        case CommandKind.SCALE:
            assert count is not None
            return client.scale(job, count)
        case CommandKind.PAUSE:
            return client.pause(job)
        case CommandKind.RESUME:
            return client.resume(job)
        case CommandKind.CHECKPOINT:
            return client.checkpoint(job)
        case CommandKind.CANCEL:
            return client.cancel(job)


def _write(path: Path, kind: CommandKind, as_json: bool, count: int | None, words: str) -> None:
    try:
        run = RunDirectory(path)
        if not run.is_written():
            raise RunDirectoryError(run.path, f"no process runs this job, so there is nothing to {kind.value}")
        identifier = send(run, kind, count=count, by="earshot")
    except (RunDirectoryError, CommandError) as error:
        fail(str(error), 2)
    if as_json:
        typer.echo(
            json.dumps({"id": identifier, "command": kind.value, "count": count, "run_dir": str(run.path.resolve())})
        )
    else:
        typer.echo(f"The job was {words}")
