"""Commands about jobs of the service: submit, jobs, show, watch."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.service.link import Job, Json, Url, fail, service, show
from orchestrator.schemas.job_state import JobState


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""

    @app.command()
    def submit(
        job: Annotated[Path, typer.Argument(help="The job file, YAML or JSON.")],
        priority: Annotated[int, typer.Option(min=-100, max=100, help="Higher goes first.")] = 0,
        max_restarts: Annotated[int, typer.Option(min=0, max=100, help="Of a driver that dies.")] = 3,
        key: Annotated[
            str | None, typer.Option("--key", help="Of your choice: sent again with the same job, no second one.")
        ] = None,
        seed: Annotated[int | None, typer.Option(help="Instead of the job file's seed.")] = None,
        wait: Annotated[bool, typer.Option("--wait", help="Until the job has ended; 1 unless it succeeded.")] = False,
        url: Url = None,
        as_json: Json = False,
    ) -> None:
        """Give a job to the service."""
        from orchestrator.job.spec_file import SpecError, read_spec, resolve_paths  # noqa: PLC0415

        try:
            spec = resolve_paths(read_spec(job, {} if seed is None else {"seed": seed}), job.resolve().parent)
        except SpecError as error:
            fail(str(error), 2)
        with service(url) as client:
            made = client.submit(spec, priority=priority, max_restarts=max_restarts, idempotency_key=key)
            if not wait:
                show(made, as_json, f"job {made.id} is {made.state}; follow it with: earshot watch {made.id}")
                return
            ended = client.wait(made.id)
            show(ended, as_json, f"job {made.id} {ended.state}")
            raise typer.Exit(0 if ended.state is JobState.SUCCEEDED else 1)

    @app.command()
    def jobs(
        state: Annotated[list[JobState] | None, typer.Option(help="Only these; repeatable.")] = None,
        name: Annotated[str | None, typer.Option(help="Only those of this name.")] = None,
        owner: Annotated[str | None, typer.Option(help="Only those of this user.")] = None,
        limit: Annotated[int, typer.Option(min=1, max=500, help="The newest so many.")] = 20,
        cursor: Annotated[str | None, typer.Option(help="next_cursor of the part before.")] = None,
        url: Url = None,
        as_json: Json = False,
    ) -> None:
        """List jobs, newest first."""
        with service(url) as client:
            page = client.jobs(state=state or (), name=name, owner=owner, cursor=cursor, limit=limit)
        from orchestrator.cli.service.tables import jobs_table  # noqa: PLC0415

        more = [f"There are more: earshot jobs --cursor {page.next_cursor}"] if page.next_cursor else []
        show(page, as_json, jobs_table(page.items) if page.items else "There are no jobs.", *more)

    @app.command(name="show")
    def show_job(job: Job, url: Url = None, as_json: Json = False) -> None:
        """Show a job: state, history, progress."""
        with service(url) as client:
            found = client.job(job)
        from orchestrator.cli.service.tables import job_table  # noqa: PLC0415

        show(found, as_json, job_table(found))

    @app.command()
    def watch(
        job: Job,
        every: Annotated[float, typer.Option(min=0.2, help="Seconds between looks.")] = 1.0,
        url: Url = None,
        as_json: Json = False,
    ) -> None:
        """Watch a job to its end: curves, workers, what happens. Ctrl-C leaves it running."""
        with service(url) as client:
            if as_json:
                ended = client.wait(job, poll_seconds=every)
                show(ended, True)
            else:
                from orchestrator.cli.service.watch import watch as follow  # noqa: PLC0415

                ended = follow(client, job, every)
        raise typer.Exit(0 if ended.state is JobState.SUCCEEDED else 1)
