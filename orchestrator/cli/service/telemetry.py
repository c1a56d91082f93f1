"""Commands about the telemetry of a job of the service: logs, metrics, samples, workers."""

from typing import Annotated

import typer

from audio_qa.errors import InputError, shown
from orchestrator.cli.options import LARGEST_STEP, JobId, Json, Url
from orchestrator.cli.service.connection import Outage, note, print_answer, service
from orchestrator.cli.service.tables import metrics_table, samples_table, workers_table
from orchestrator.client import ClientError, EarshotClient


def logs(
    job: JobId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print new lines as they are written, until the job ends.")
    ] = False,
    tail: Annotated[int, typer.Option(min=0, max=1000, help="Number of last lines to start with.")] = 100,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Print the driver log of a job."""
    if follow and as_json:
        raise InputError("--json prints one document, and --follow has no end: leave one of them out")
    with service(url) as client:
        if follow:
            _follow(client, job, tail)
            return
        page = client.logs(job, tail=tail)
        if as_json:
            print_answer(page, True)
            return
        for line in page.items:
            typer.echo(line.text)


def _follow(client: EarshotClient, job: str, tail: int) -> None:
    """Print the lines of a job until it ends, each once, however often the service is restarted meanwhile."""
    last, outage = None, Outage()
    while True:
        try:
            for line in client.stream_logs(job, after=last, tail=tail):
                outage.end()
                typer.echo(line.text)
                last = line.cursor
            return
        except ClientError as error:
            outage.begin(error)


def metrics(
    job: JobId,
    names: Annotated[str | None, typer.Option(help="Only these metrics, separated by commas.")] = None,
    since_step: Annotated[int | None, typer.Option(min=-1, max=LARGEST_STEP, help="Only steps after this one.")] = None,
    points: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number of points; more are averaged.")] = 1000,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show the metrics of a job by step."""
    with service(url) as client:
        wanted = names.split(",") if names else None
        found = client.metrics(job, since_step=since_step, names=wanted, points=points)
    unknown = sorted(set(wanted or ()) - {*found.names, ""}) if found.items else []
    if unknown:
        note(f"the job has no metric {', '.join(map(shown, unknown))}; it has {', '.join(found.names)}")
    table = metrics_table(found)
    none = "There are no such metrics." if unknown or since_step is not None else "There are no metrics yet."
    print_answer(found, as_json, table if len(table) else none)


def samples(
    job: JobId,
    step: Annotated[
        int | None, typer.Option(min=0, max=LARGEST_STEP, help="Only samples of this learner step.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="Maximum number of samples, newest first.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="next_cursor of the previous page.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show sampled completions and their rewards."""
    with service(url) as client:
        page = client.samples(job, step=step, limit=limit, cursor=cursor)
    chosen = "" if step is None else f" --step {step}"
    more = [f"There are more: earshot samples {job}{chosen} --cursor {page.next_cursor}"] if page.next_cursor else []
    none = "There are no samples yet." if cursor is None and step is None else "There are no such samples."
    print_answer(page, as_json, samples_table(page.items) if page.items else none, *more)


def workers(job: JobId, url: Url = None, as_json: Json = False) -> None:
    """Show the rollout workers of a job."""
    with service(url) as client:
        page = client.workers(job)
    tables = [workers_table(page.items)] if page.items else []
    print_answer(page, as_json, *tables, f"target: {page.target}")
