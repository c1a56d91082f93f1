"""Run a command of Earshot in this process."""

from typer.testing import CliRunner

from orchestrator.cli.main import app


def run(*arguments: object, code: int = 0) -> str:
    """Return what a command prints: on stderr, one line and nothing else, if its exit code is to be 2."""
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == code, done.output
    if code == 2:
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1
        return done.stderr
    return done.stdout
