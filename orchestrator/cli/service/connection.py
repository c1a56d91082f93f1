"""The client of a command, what it says while the service is away, and its answers as JSON or tables."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import typer
from pydantic import BaseModel

from audio_qa.errors import one_line
from orchestrator.cli.outcome import interrupted
from orchestrator.client import AnswerError, ApiError, ClientError, EarshotClient, UnreachableError
from orchestrator.display.table import Facts, Table, output_console, show

Result = TypeVar("Result")

ANSWER_SECONDS = 1.5
"""A service that has not answered the first request by then is away."""
_RETRY_SECONDS = 10.0
"""Time for which requests are repeated after the service has answered: it may be restarted."""
_PAUSE_SECONDS = 1.0


@contextmanager
def service(url: str | None) -> Iterator[EarshotClient]:
    """Yield a client of a service that answers. Raises UnreachableError within two seconds if none does."""
    try:
        with interrupted("the job continues"), EarshotClient(url, retry_seconds=_RETRY_SECONDS) as client:
            _check_answers(url)
            yield client
    except UnreachableError as error:
        raise UnreachableError(f"{error}; start one with `earshot serve`, or name it with EARSHOT_URL") from error


def _check_answers(url: str | None) -> None:
    """Raise UnreachableError unless something answers soon. What it answers is judged by the command's own request.

    In a thread, because neither a look-up of a name nor an answer in small pieces ends by the timeouts of a socket.
    """
    first = EarshotClient(url, timeout=ANSWER_SECONDS, retry_seconds=ANSWER_SECONDS / 2)
    found: list[Exception] = []

    def ask() -> None:
        with first:
            try:
                first.health()
            except Exception as error:  # raised below, in the thread of the command
                found.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(ANSWER_SECONDS)
    if asking.is_alive():
        raise UnreachableError(f"no service answers at {first.url} (it did not answer in {ANSWER_SECONDS:g} s)")
    if found and not isinstance(found[0], ApiError | AnswerError):
        raise found[0]


class Outage:
    """Says once on stderr that the service is away, and once that it answers again."""

    def __init__(self) -> None:
        self._lasts = False

    def begin(self, error: ClientError) -> None:
        """Note that a request failed, and wait a little. Raises the error if another attempt would not help."""
        if not is_away(error):
            raise error
        if not self._lasts:
            note(f"{error}; trying again until it answers")
        self._lasts = True
        time.sleep(_PAUSE_SECONDS)

    def end(self) -> None:
        """Note that a request succeeded."""
        if self._lasts:
            note("the service answers again")
        self._lasts = False


def is_away(error: ClientError) -> bool:
    """Return whether a request may succeed later: the service is away, or refuses it for now."""
    return isinstance(error, UnreachableError) or (isinstance(error, ApiError) and error.is_temporary)


def steadily(action: Callable[[], Result]) -> Result:
    """Return the result of `action`, which is repeated until the service can answer; stderr says so."""
    outage = Outage()
    while True:
        try:
            result = action()
        except ClientError as error:
            outage.begin(error)
        else:
            outage.end()
            return result


def note(message: str) -> None:
    """Print a line to stderr, while a command continues."""
    print(f"earshot: {one_line(message)}", file=sys.stderr, flush=True)


def print_answer(answer: BaseModel, as_json: bool, *parts: Table | Facts | str) -> None:
    """Print an answer: as one JSON document, or as the tables, facts and sentences."""
    if as_json:
        typer.echo(answer.model_dump_json())
    else:
        show(output_console(), *parts)
