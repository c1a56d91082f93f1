"""Commands about what a job of the service tells: logs, metrics, samples, workers."""

from typing import Annotated

import typer

from orchestrator.cli.service.link import Job, Json, Url, fail, service, show


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""

    @app.command()
    def logs(
        job: Job,
        follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
        tail: Annotated[int, typer.Option(min=0, max=1000, help="The last so many lines.")] = 100,
        url: Url = None,
        as_json: Json = False,
    ) -> None:
        """Print what a job's driver writes."""
        if follow and as_json:
            fail("--json is one document, and --follow has no end to wait for: leave one of them out", 2)
        with service(url) as client:
            if follow:
                for line in client.stream_logs(job, tail=tail):
                    typer.echo(line.text)
                return
            page = client.logs(job, tail=tail)
            if as_json:
                show(page, True)
                return
            for line in page.items:
                typer.echo(line.text)

    @app.command()
    def metrics(
        job: Job,
        names: Annotated[str | None, typer.Option(help="Only these, separated by commas.")] = None,
        since_step: Annotated[int | None, typer.Option(min=-1, help="Only steps behind this one.")] = None,
        points: Annotated[int, typer.Option(min=1, max=10_000, help="More steps are put together.")] = 1000,
        url: Url = None,
        as_json: Json = False,
    ) -> None:
        """Show a job's metrics over its steps."""
        with service(url) as client:
            wanted = names.split(",") if names else None
            found = client.metrics(job, since_step=since_step, names=wanted, points=points)
        from orchestrator.cli.service.tables import metrics_table  # noqa: PLC0415

        show(found, as_json, metrics_table(found) if found.items else "There are no metrics yet.")

    @app.command()
    def samples(
        job: Job,
        step: Annotated[int | None, typer.Option(min=0, help="Only those of this learner step.")] = None,
        limit: Annotated[int, typer.Option(min=1, max=500, help="The newest so many.")] = 20,
        cursor: Annotated[str | None, typer.Option(help="next_cursor of the part before.")] = None,
        url: Url = None,
        as_json: Json = False,
    ) -> None:
        """Show what the model said, and what it got for it."""
        with service(url) as client:
            page = client.samples(job, step=step, limit=limit, cursor=cursor)
        from orchestrator.cli.service.tables import samples_table  # noqa: PLC0415

        show(page, as_json, samples_table(page.items) if page.items else "There are no samples yet.")

    @app.command()
    def workers(job: Job, url: Url = None, as_json: Json = False) -> None:
        """Show a job's rollout workers."""
        with service(url) as client:
            page = client.workers(job)
        from orchestrator.cli.service.tables import workers_table  # noqa: PLC0415

        show(page, as_json, *([workers_table(page.items)] if page.items else []), f"wanted: {page.target}")
