"""Exit codes of the command line. Commands raise errors; only `exit_codes` turns an error into an exit code.

| code | |
|---|---|
| 0 | success |
| 1 | failure, with one line on stderr, of at most 1,000 printable characters |
| 2 | input that the user can correct, with one such line: InputError, an argument that typer refuses, too long a name |
| 130 | interrupted with Ctrl-C or SIGTERM |
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from audio_qa.errors import EarshotError, InputError, one_line, shown
from orchestrator.run.exit_codes import BAD_INPUT, CANCELLED, FAILED, SUCCEEDED


class UnsuccessfulError(EarshotError):
    """A command that did its work, with a result that is not a success."""


@contextmanager
def exit_codes() -> Iterator[None]:
    """End the process with one line and an exit code where a command raises.

    With EARSHOT_TRACEBACK set, a failure keeps its traceback.
    """
    try:
        yield
    except typer.TyperException as error:
        _end_of_usage(error)
        raise
    except (typer.Exit, typer.Abort):
        raise  # typer has exit codes for its own
    except InputError as error:
        _end(str(error), BAD_INPUT)
    except UnsuccessfulError as error:
        _end(str(error), FAILED)
    except KeyboardInterrupt as error:
        _end("; ".join(["interrupted", *map(str, error.args)]), CANCELLED)
    except BrokenPipeError:
        # The reader of the output has closed it, as `head` does. Nothing more is written, at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(SUCCEEDED) from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            _end(f"{shown(error.filename)}: the name is too long for a file; correct the path", BAD_INPUT)
        if shows_tracebacks():
            raise
        # Messages of our own errors name the cause. Any other error is unexpected.
        known = isinstance(error, EarshotError)
        _end(str(error) if known else f"{type(error).__name__}: {error} (EARSHOT_TRACEBACK=1 shows where)", FAILED)


@contextmanager
def interrupted(consequence: str) -> Iterator[None]:
    """Have Ctrl-C report `consequence` as well, such as "the job continues"."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(consequence) from None


def shows_tracebacks() -> bool:
    """Return whether EARSHOT_TRACEBACK asks for tracebacks."""
    return bool(os.environ.get("EARSHOT_TRACEBACK"))


def _end_of_usage(error: typer.TyperException) -> None:
    """End the process if `error` is about the arguments of a command; typer would print a box of several lines."""
    context: typer.Context | None = getattr(error, "ctx", None)
    # Without arguments typer has printed the help of the command.
    if context is None or type(error).__name__ == "NoArgsIsHelpError":
        return
    message, command = error.format_message().replace("Value error, ", ""), context.command_path
    if message == "Missing command.":
        message = f"name a command: {', '.join(getattr(context.command, 'commands', ()))}"
    hint = f" See {command} --help" if message.endswith("?") else f"; see {command} --help"
    _end(message.removesuffix(".") + hint, BAD_INPUT, command)


def _end(message: str, code: int, program: str = "earshot") -> NoReturn:
    print(f"{program}: {one_line(message)}", file=sys.stderr)
    raise SystemExit(code)
