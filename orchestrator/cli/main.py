"""The command `earshot`: the table of its commands, and the console script. outcome.py has the exit codes."""

import logging
import os
import sys
from importlib.metadata import version
from io import TextIOWrapper
from typing import Annotated, Any

import typer

from audio_qa.errors import InputError
from orchestrator.cli.lazy import Entry, LazyGroup
from orchestrator.cli.outcome import exit_codes

RUN, DATA, SERVICE, OPERATE = "Run", "Data", "Service", "Operate"
"""The panels of `earshot --help`."""

COMMANDS = (
    Entry(RUN, "run", "orchestrator.cli.run.run:run", "Run a job in the foreground until it ends."),
    Entry(
        RUN, "demo", "orchestrator.cli.run.run:demo", "Train a tiny model until it uses the audio (examples/demo.yaml)."
    ),
    Entry(
        RUN,
        "evaluate",
        "orchestrator.cli.run.evaluate:evaluate",
        "Evaluate a model with the audio, and with the controls.",
    ),
    Entry(
        RUN,
        "score",
        "orchestrator.cli.run.score:score",
        "Score a file of predictions by the rule of its benchmark.",
    ),
    Entry(RUN, "compare", "orchestrator.cli.run.score:compare", "Compare two results, question by question."),
    Entry(RUN, "reproduce", "orchestrator.cli.run.reproduce:reproduce", "Reproduce the results table of the paper."),
    Entry(DATA, "data", "orchestrator.cli.data.data:data", "Check and filter questions and their clips."),
    Entry(SERVICE, "submit", "orchestrator.cli.service.jobs:submit", "Submit a job to the service."),
    Entry(SERVICE, "jobs", "orchestrator.cli.service.jobs:jobs", "List jobs, newest first."),
    Entry(SERVICE, "show", "orchestrator.cli.service.jobs:show", "Show the state, history and progress of a job."),
    Entry(SERVICE, "watch", "orchestrator.cli.service.jobs:watch", "Follow a job until it ends."),
    Entry(SERVICE, "logs", "orchestrator.cli.service.telemetry:logs", "Print the driver log of a job."),
    Entry(SERVICE, "metrics", "orchestrator.cli.service.telemetry:metrics", "Show the metrics of a job by step."),
    Entry(
        SERVICE, "samples", "orchestrator.cli.service.telemetry:samples", "Show sampled completions and their rewards."
    ),
    Entry(SERVICE, "workers", "orchestrator.cli.service.telemetry:workers", "Show the rollout workers of a job."),
    Entry(SERVICE, "scale", "orchestrator.cli.service.control:scale", "Set the number of rollout workers of a job."),
    Entry(SERVICE, "pause", "orchestrator.cli.service.control:pause", "Pause a running job after the current step."),
    Entry(SERVICE, "resume", "orchestrator.cli.service.control:resume", "Resume a paused job."),
    Entry(
        SERVICE,
        "checkpoint",
        "orchestrator.cli.service.control:checkpoint",
        "Write a checkpoint of a running job after the current step.",
    ),
    Entry(SERVICE, "cancel", "orchestrator.cli.service.control:cancel", "Cancel a job."),
    Entry(SERVICE, "retry", "orchestrator.cli.service.changes:retry", "Queue a failed or cancelled job again."),
    Entry(
        SERVICE,
        "priority",
        "orchestrator.cli.service.changes:priority",
        "Change the priority of a job that has not ended.",
    ),
    Entry(
        SERVICE,
        "delete",
        "orchestrator.cli.service.changes:delete",
        "Delete jobs that have ended, with their run directories.",
    ),
    Entry(
        SERVICE,
        "whoami",
        "orchestrator.cli.service.account:whoami",
        "Show the user of your token, their role, and the service.",
    ),
    Entry(
        SERVICE,
        "limits",
        "orchestrator.cli.service.account:limits",
        "Show what the service allows: jobs, GPUs, folders, rewards, judges.",
    ),
    Entry(SERVICE, "audit", "orchestrator.cli.service.account:audit", "List what was done or refused, newest first."),
    Entry(
        OPERATE,
        "serve",
        "orchestrator.cli.operate.serve:serve",
        "Run the service: take jobs over REST and schedule them.",
    ),
    Entry(
        OPERATE, "token", "orchestrator.cli.operate.token:token", "Create, list and revoke the tokens of the service."
    ),
    Entry(
        OPERATE,
        "backup",
        "orchestrator.cli.operate.backup:backup",
        "Back up the database and run directories of the service.",
    ),
    Entry(OPERATE, "restore", "orchestrator.cli.operate.backup:restore", "Restore a backup into a new data directory."),
    Entry(
        OPERATE,
        "cluster",
        "orchestrator.cli.operate.cluster:cluster",
        "Build a Ray cluster from machines without Kubernetes.",
    ),
)


class EarshotGroup(LazyGroup):
    """All commands, with their exit codes."""

    entries = COMMANDS

    def make_context(self, *arguments: Any, **options: Any) -> typer.Context:
        """Read the options before the command."""
        with exit_codes():
            return super().make_context(*arguments, **options)  # type: ignore[return-value]

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Refuse what no shell passes on, and no file can be named."""
        if any("\0" in argument for argument in args):
            raise InputError("an argument contains a zero byte; remove it")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run the command that was named."""
        with exit_codes():
            return super().invoke(ctx)


app = typer.Typer(cls=EarshotGroup, no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(given: bool) -> None:
    if given:
        print(f"earshot {version('earshot')}")
        raise typer.Exit


@app.callback()
def earshot(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Post-train audio language models with reinforcement learning on a Ray cluster."""


def main() -> None:
    """Run the console script."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    # A name of a file need not be text, and a terminal need not know every character.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Before torch is loaded, here or in a child process: its threads must not spin while they wait.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app()
