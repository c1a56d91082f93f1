"""Commands about the jobs of the service: submit, jobs, show, watch."""

import time
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.job_file import read_job
from orchestrator.cli.options import LARGEST_SEED, JobId, Json, Url, finite
from orchestrator.cli.service.connection import print_answer, service, steadily
from orchestrator.cli.service.tables import job_facts, jobs_table, state_in_words
from orchestrator.cli.service.watch import watch as follow
from orchestrator.client import EarshotClient, JobView
from orchestrator.run.exit_codes import FAILED
from orchestrator.schemas.job_state import ENDED, JobState


def submit(
    job: Annotated[Path, typer.Argument(metavar="JOB", help="Job file, YAML or JSON.")],
    priority: Annotated[int, typer.Option(min=-100, max=100, help="Priority; jobs with a higher one run first.")] = 0,
    max_restarts: Annotated[int, typer.Option(min=0, max=100, help="Restarts allowed after its driver dies.")] = 3,
    key: Annotated[
        str | None,
        typer.Option("--key", help="Idempotency key: the same key and job again create no second job."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=LARGEST_SEED, help="Seed, in place of the job file's.")] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until the job ends; exits with 1 unless it succeeded.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Have the service check the job, and submit nothing.")
    ] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Submit a job to the service."""
    spec = read_job(job, seed)
    with service(url) as client:
        if dry_run:
            checked = client.validate(spec)
            needs = f"GPUs: {checked.gpus:g}, CPUs: {checked.cpus:g}"
            print_answer(checked, as_json, f"the service would accept this job; it needs {needs}")
            return
        made = client.submit(spec, priority=priority, max_restarts=max_restarts, idempotency_key=key)
        if not wait:
            words = f"job {made.id} is {state_in_words(made)}; follow it with: earshot watch {made.id}"
            print_answer(made, as_json, words)
            return
        ended = _wait(client, made.id)
    print_answer(ended, as_json, f"job {made.id} {ended.state}")
    _exit_unless_succeeded(ended)


def jobs(
    state: Annotated[list[JobState] | None, typer.Option(help="Only jobs in this state; repeatable.")] = None,
    name: Annotated[str | None, typer.Option(help="Only jobs with this name.")] = None,
    owner: Annotated[str | None, typer.Option(help="Only jobs of this user.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="Maximum number of jobs.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="next_cursor of the previous page.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    with service(url) as client:
        page = client.jobs(state=state or (), name=name, owner=owner, cursor=cursor, limit=limit)
    more = [f"There are more: earshot jobs --cursor {page.next_cursor}"] if page.next_cursor else []
    print_answer(page, as_json, jobs_table(page.items) if page.items else "There are no jobs.", *more)


def show(job: JobId, url: Url = None, as_json: Json = False) -> None:
    """Show the state, history and progress of a job."""
    with service(url) as client:
        found = client.job(job)
    print_answer(found, as_json, job_facts(found))


def watch(
    job: JobId,
    every: Annotated[float, typer.Option(min=0.2, max=3600, callback=finite, help="Seconds between updates.")] = 1.0,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Follow a job until it ends.

    Shows learning curves, workers and events; exits with 1 unless the job succeeded. Ctrl-C leaves the job running.
    """
    with service(url) as client:
        if as_json:
            ended: JobView = _wait(client, job, every)
            print_answer(ended, True)
        else:
            ended = follow(client, job, every)
    _exit_unless_succeeded(ended)


def _wait(client: EarshotClient, job_id: str, every: float = 1.0) -> JobView:
    """Return a job once it has ended, however often the service is restarted meanwhile."""
    while True:
        job = steadily(lambda: client.job(job_id))
        if job.state in ENDED:
            return job
        time.sleep(every)


def _exit_unless_succeeded(job: JobView) -> None:
    if job.state is not JobState.SUCCEEDED:
        raise typer.Exit(FAILED)
