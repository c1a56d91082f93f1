"""Changes to a job of the service as a whole: retry, priority, delete."""

import sys
from typing import Annotated

import typer
from pydantic import BaseModel

from audio_qa.errors import InputError
from orchestrator.cli.options import JobId, Json, Url
from orchestrator.cli.service.connection import print_answer, service
from orchestrator.cli.service.tables import state_in_words
from orchestrator.schemas.about import HIGHEST_PRIORITY


class Deleted(BaseModel):
    """The jobs that were deleted."""

    deleted: list[str]


def retry(job: JobId, url: Url = None, as_json: Json = False) -> None:
    """Queue a failed or cancelled job again.

    It continues from its last checkpoint, with all its restarts.
    """
    with service(url) as client:
        queued = client.retry(job)
    print_answer(
        queued, as_json, f"job {queued.id} is {state_in_words(queued)}; follow it with: earshot watch {queued.id}"
    )


def priority(
    job: JobId,
    number: Annotated[
        int,
        typer.Argument(
            metavar="PRIORITY",
            min=-HIGHEST_PRIORITY,
            max=HIGHEST_PRIORITY,
            help="New priority; jobs with a higher one run first.",
        ),
    ],
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Change the priority of a job that has not ended."""
    with service(url) as client:
        changed = client.set_priority(job, number)
    print_answer(
        changed, as_json, f"job {changed.id} has the priority {changed.priority} and is {state_in_words(changed)}"
    )


def delete(
    jobs: Annotated[list[str], typer.Argument(metavar="JOB...", help="Job ids, as `earshot jobs` lists them.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; needed where there is no terminal.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Delete jobs that have ended, with their run directories.

    Their checkpoints, metrics and samples are gone then; copies in a storage stay. Asks before on a terminal.
    """
    wanted = list(dict.fromkeys(jobs))
    if not yes:
        _ask(wanted)
    deleted: list[str] = []
    with service(url) as client:
        for job in wanted:
            client.delete(job)
            deleted.append(job)
            if not as_json:
                typer.echo(f"job {job} is deleted")
    if as_json:
        print_answer(Deleted(deleted=deleted), True)


def _ask(jobs: list[str]) -> None:
    """Ask whether to delete jobs. Raises InputError where nobody can answer, Abort for any answer but yes."""
    if not sys.stdin.isatty():
        raise InputError("deleting a job removes its run directory; add --yes to do it without a question")
    what = f"job {jobs[0]} and its run directory" if len(jobs) == 1 else f"{len(jobs)} jobs and their run directories"
    typer.confirm(f"Delete {what}?", abort=True, err=True)
