"""The client of a command, and its answers as JSON or tables."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from pydantic import BaseModel
from rich.console import Console, RenderableType

from orchestrator.cli.outcome import interrupted
from orchestrator.client import EarshotClient, UnreachableError


@contextmanager
def service(url: str | None) -> Iterator[EarshotClient]:
    """Yield a client of the service, which retries for ten seconds while the service does not answer."""
    try:
        with interrupted("the job continues"), EarshotClient(url, retry_seconds=10) as client:
            yield client
    except UnreachableError as error:
        raise UnreachableError(f"{error}; start one with `earshot serve`, or name it with EARSHOT_URL") from error


def print_answer(answer: BaseModel, as_json: bool, *tables: RenderableType) -> None:
    """Print an answer: as one JSON document, or as the tables."""
    if as_json:
        typer.echo(answer.model_dump_json())
        return
    console = Console()
    for table in tables:
        console.print(table)
