"""What the commands that ask the service have in common: how it is named, its errors as exit codes, JSON or a table."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:  # httpx and the models take a moment, which --help need not wait for
    from pydantic import BaseModel
    from rich.console import RenderableType

    from orchestrator.client import EarshotClient

Job = Annotated[str, typer.Argument(help="The id of a job, as `earshot jobs` lists them.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]
Url = Annotated[
    str | None,
    typer.Option("--url", envvar="EARSHOT_URL", help="The service; by default the one on this machine."),
]


@contextmanager
def service(url: str | None) -> Iterator["EarshotClient"]:
    """A client of the service; its errors end the command: 2 for what the user can mend, 1 for the rest."""
    from orchestrator.client import ApiError, ClientError, EarshotClient  # noqa: PLC0415

    try:
        with EarshotClient(url, retry_seconds=10) as client:
            yield client
    except ApiError as error:
        fail(str(error), 2 if 400 <= error.status < 500 and error.status != 429 else 1)
    except ClientError as error:
        hint = "; start one with `earshot serve`, or name it with EARSHOT_URL" if "no service" in str(error) else ""
        fail(f"{error}{hint}", 2 if "URL" in str(error) or "token" in str(error) else 1)
    except KeyboardInterrupt:
        fail("interrupted; the job goes on", 130)
    except BrokenPipeError:
        # Whoever read the output has had enough.
        sys.stderr.close()
        raise SystemExit(0) from None


def show(answer: "BaseModel", as_json: bool, *tables: "RenderableType") -> None:
    """Print an answer: as one JSON document, or what stands for it."""
    if as_json:
        typer.echo(answer.model_dump_json())
        return
    from rich.console import Console  # noqa: PLC0415

    console = Console()
    for table in tables:
        console.print(table)


def fail(message: str, code: int) -> NoReturn:
    """End the command with one line on stderr."""
    typer.echo(f"earshot: {' '.join(message.split())}", err=True)
    raise typer.Exit(code)
