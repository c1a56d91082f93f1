"""The command `earshot`. Exit codes: 0 success, 2 bad input with one line on stderr, 1 failure, 130 Ctrl-C."""

import logging
import os
import sys

import typer

from orchestrator.cli import backup as backup_commands
from orchestrator.cli import cluster as cluster_commands
from orchestrator.cli import data as data_commands
from orchestrator.cli import evaluate as evaluation_commands
from orchestrator.cli import reproduce as reproduce_command
from orchestrator.cli import run as run_commands
from orchestrator.cli import serve as serve_command
from orchestrator.cli import token as token_commands
from orchestrator.cli.service import control as job_commands
from orchestrator.cli.service import jobs as service_commands
from orchestrator.cli.service import telemetry as telemetry_commands

app = typer.Typer(no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False)


@app.callback()
def earshot() -> None:
    """Post-train audio language models with reinforcement learning on a Ray cluster."""


for commands in (
    run_commands,
    serve_command,
    service_commands,
    telemetry_commands,
    job_commands,
    data_commands,
    evaluation_commands,
    reproduce_command,
    token_commands,
    backup_commands,
    cluster_commands,
):
    commands.register(app)


def main() -> None:
    """The console script. Typer's own usage errors exit with 2 as well."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    # Before torch is loaded, here or in a process started from here: its threads must not spin while they wait.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app()
