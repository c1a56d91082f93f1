"""`earshot cluster up|join|down`: a Ray cluster of machines without Kubernetes, with a token."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import Json
from orchestrator.cluster.node import (
    RayNode,
    check_token,
    head_command,
    make_token,
    own_address,
    sized,
    token_environment,
    worker_command,
)
from orchestrator.places import RAY_DASHBOARD_PORT, RAY_PORT, data_directory

TokenFile = Annotated[
    Path | None,
    typer.Option(
        help="File with the cluster's token, the same on all machines. Default: cluster/token in the data directory."
    ),
]
Cpus = Annotated[int | None, typer.Option(min=0, max=65_536, help="Logical CPUs. Default: those of this machine.")]
Gpus = Annotated[int | None, typer.Option(min=0, max=65_536, help="GPUs. Default: those of this machine.")]
Foreground = Annotated[
    bool, typer.Option("--foreground", help="Run the node in the foreground, for systemd and containers.")
]

cluster = typer.Typer(add_completion=False, help="Build a Ray cluster from machines without Kubernetes.")


@cluster.command()
def up(
    host: Annotated[
        str | None,
        typer.Option(help="Address of this machine for the other machines. Default: found from its routes."),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the head.")] = RAY_PORT,
    dashboard_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of the dashboard, for `earshot serve --ray-address`.")
    ] = RAY_DASHBOARD_PORT,
    token_file: TokenFile = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
    foreground: Foreground = False,
    as_json: Json = False,
) -> None:
    """Start the head of a new cluster on this machine.

    Creates the cluster's token if it does not exist.
    """
    host = host or own_address()
    token = _token(token_file)
    address = f"{host}:{port}"
    dashboard = f"http://{host}:{dashboard_port}"
    RayNode(_folder()).check_not_running()
    make_token(token)
    command = sized(head_command(host, port, dashboard_port), cpus, gpus)
    _start(command, token, "head", address, foreground)
    if as_json:
        typer.echo(json.dumps({"role": "head", "address": address, "dashboard": dashboard, "token_file": str(token)}))
        return
    typer.echo(f"The head is running. Copy {token} to the other machines and keep it secret: with it, anyone can run")
    typer.echo("anything on this cluster.")
    typer.echo(f"  there: earshot cluster join {address} --token-file FILE")
    typer.echo(f"  here:  RAY_AUTH_TOKEN_PATH={token} earshot serve --ray-address {dashboard}")


@cluster.command()
def join(
    head: Annotated[
        str, typer.Argument(metavar="HEAD", help="HOST or HOST:PORT of the head, as `earshot cluster up` prints it.")
    ],
    token_file: TokenFile = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
    foreground: Foreground = False,
    as_json: Json = False,
) -> None:
    """Add this machine to a cluster."""
    token = _token(token_file)
    command = sized(worker_command(head), cpus, gpus)
    RayNode(_folder()).check_not_running()
    check_token(token)
    address = next(word.partition("=")[2] for word in command if word.startswith("--address="))
    _start(command, token, "worker", address, foreground)
    answer = {"role": "worker", "address": address}
    typer.echo(json.dumps(answer) if as_json else f"This machine is a node of {address}.")


@cluster.command()
def down(as_json: Json = False) -> None:
    """Stop the node of this machine, and everything that runs on it.

    On the head this ends the cluster; its jobs recover on the next one.
    """
    ended = RayNode(_folder()).stop()
    if as_json:
        typer.echo(json.dumps({"ended": asdict(ended) if ended else None}))
    else:
        typer.echo(f"The {ended.role} of {ended.address} has stopped." if ended else "No node runs here.")


def _start(command: list[str], token: Path, role: str, address: str, foreground: bool) -> None:
    environment = token_environment(token)
    if foreground:
        os.chdir("/")
        os.execve(command[0], command, environment)
    RayNode(_folder()).start(command, environment, role, address)


def _folder() -> Path:
    return data_directory().expanduser().absolute() / "cluster"


def _token(given: Path | None) -> Path:
    return given.expanduser().absolute() if given else _folder() / "token"
