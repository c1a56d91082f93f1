"""Commands to a running job: scale, pause, resume, checkpoint, cancel.

A job is named by its id if the service runs it, or by its run directory if `earshot run` does.
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import Json, Url
from orchestrator.cli.service.connection import print_answer, service
from orchestrator.client import CommandView, EarshotClient, JobView
from orchestrator.run.commands import CommandKind
from orchestrator.run.directory import RunDirectory
from orchestrator.run.mailbox import send, settle
from orchestrator.run.records import RunDirectoryError
from orchestrator.schemas.api import MOST_WORKERS

Job = Annotated[str, typer.Argument(metavar="JOB", help="Job id of the service, or run directory of `earshot run`.")]


def scale(
    job: Job,
    count: Annotated[
        int, typer.Argument(metavar="COUNT", min=0, max=MOST_WORKERS, help="Number of rollout workers; may be 0.")
    ],
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Set the number of rollout workers of a job."""
    _command(job, CommandKind.SCALE, url, as_json, count)


def pause(job: Job, url: Url = None, as_json: Json = False) -> None:
    """Pause a running job after the current step."""
    _command(job, CommandKind.PAUSE, url, as_json)


def resume(job: Job, url: Url = None, as_json: Json = False) -> None:
    """Resume a paused job."""
    _command(job, CommandKind.RESUME, url, as_json)


def checkpoint(job: Job, url: Url = None, as_json: Json = False) -> None:
    """Write a checkpoint of a running job after the current step."""
    _command(job, CommandKind.CHECKPOINT, url, as_json)


def cancel(job: Job, url: Url = None, as_json: Json = False) -> None:
    """Cancel a job.

    A run of `earshot run` can be continued with `earshot run --resume`.
    """
    _command(job, CommandKind.CANCEL, url, as_json)


def _command(job: str, kind: CommandKind, url: str | None, as_json: bool, count: int | None = None) -> None:
    """Give a job a command: over REST, or through the files of its run directory."""
    message = f"Command sent: {kind.value}{'' if count is None else f' to {count} rollout workers'}"
    if _is_run_directory(job):
        _write(Path(job), kind, as_json, count, message)
        return
    with service(url) as client:
        answer = _request(client, job, kind, count)
    print_answer(answer, as_json, message)


def _is_run_directory(job: str) -> bool:
    """Return whether `job` is a path: a job id has no slash, and is not the name of a folder here."""
    return "/" in job or Path(job).is_dir()


def _request(client: EarshotClient, job: str, kind: CommandKind, count: int | None) -> CommandView | JobView:
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


def _write(path: Path, kind: CommandKind, as_json: bool, count: int | None, message: str) -> None:
    run = RunDirectory(path)
    if not run.is_locked():
        raise RunDirectoryError(run.path, f"no process runs this job, so there is nothing to {kind.value}")
    identifier = send(run, kind, count=count, by="earshot")
    if not run.is_locked() and settle(run, "the job had ended before it carried this out"):
        raise RunDirectoryError(run.path, f"the job ended before it carried out {kind.value}")
    if as_json:
        typer.echo(
            json.dumps({"id": identifier, "command": kind.value, "count": count, "run_dir": str(run.path.resolve())})
        )
    else:
        typer.echo(message)
