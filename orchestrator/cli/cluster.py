"""`earshot cluster up|join|down`: a Ray cluster of machines without Kubernetes, with a token."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.service.link import Json, fail
from orchestrator.places import RAY_DASHBOARD_PORT, RAY_PORT, data_directory

TokenFile = Annotated[
    Path | None,
    typer.Option(help="Its token, the same on all machines; by default cluster/token in the data directory."),
]
Cpus = Annotated[int | None, typer.Option(min=0, help="Logical CPUs; by default the machine's.")]
Gpus = Annotated[int | None, typer.Option(min=0, help="GPUs; by default the machine's.")]
Foreground = Annotated[bool, typer.Option("--foreground", help="Stay, as systemd and containers want it.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    cluster = typer.Typer(no_args_is_help=True, help="A Ray cluster of machines without Kubernetes.")
    app.add_typer(cluster, name="cluster")

    @cluster.command()
    def up(
        host: Annotated[
            str | None, typer.Option(help="This machine's address, as the others reach it; by default by its routes.")
        ] = None,
        port: Annotated[int, typer.Option(min=1, max=65535)] = RAY_PORT,
        dashboard_port: Annotated[
            int, typer.Option(min=1, max=65535, help="Where `earshot serve --ray-address` finds it.")
        ] = RAY_DASHBOARD_PORT,
        token_file: TokenFile = None,
        cpus: Cpus = None,
        gpus: Gpus = None,
        foreground: Foreground = False,
        as_json: Json = False,
    ) -> None:
        """Make this machine the head of a new cluster, and a token for it if there is none."""
        from orchestrator.cluster.node import LocalNode, NodeError, head_command, make_token, own_address, sized  # noqa: PLC0415

        host = host or own_address()
        token = _token(token_file)
        address = f"{host}:{port}"
        dashboard = f"http://{host}:{dashboard_port}"
        try:
            LocalNode(_folder()).check_free()
            make_token(token)
        except NodeError as error:
            fail(str(error), 2)
        command = sized(head_command(host, port, dashboard_port), cpus, gpus)
        _start(command, token, "head", address, foreground)
        if as_json:
            typer.echo(
                json.dumps({"role": "head", "address": address, "dashboard": dashboard, "token_file": str(token)})
            )
            return
        typer.echo(f"The head runs. Copy {token} to the other machines, safely: who has it can run anything here.")
        typer.echo(f"  there: earshot cluster join {address} --token-file FILE")
        typer.echo(f"  here:  RAY_AUTH_TOKEN_PATH={token} earshot serve --ray-address {dashboard}")

    @cluster.command()
    def join(
        head: Annotated[str, typer.Argument(help="HOST or HOST:PORT, as `earshot cluster up` says.")],
        token_file: TokenFile = None,
        cpus: Cpus = None,
        gpus: Gpus = None,
        foreground: Foreground = False,
        as_json: Json = False,
    ) -> None:
        """Make this machine a node of a cluster."""
        from orchestrator.cluster.node import LocalNode, NodeError, check_token, sized, worker_command  # noqa: PLC0415

        token = _token(token_file)
        try:
            command = sized(worker_command(head), cpus, gpus)
            LocalNode(_folder()).check_free()
            check_token(token)
        except NodeError as error:
            fail(str(error), 2)
        address = next(word.partition("=")[2] for word in command if word.startswith("--address="))
        _start(command, token, "worker", address, foreground)
        said = {"role": "worker", "address": address}
        typer.echo(json.dumps(said) if as_json else f"This machine is a node of {address}.")

    @cluster.command()
    def down(as_json: Json = False) -> None:
        """End this machine's node, and what runs on it. On the head this ends the cluster; jobs recover on the next."""
        from orchestrator.cluster.node import LocalNode  # noqa: PLC0415

        ended = LocalNode(_folder()).stop()
        if as_json:
            typer.echo(json.dumps({"ended": asdict(ended) if ended else None}))
        else:
            typer.echo(f"The {ended.role} of {ended.address} has ended." if ended else "No node runs here.")


def _start(command: list[str], token: Path, role: str, address: str, foreground: bool) -> None:
    from orchestrator.cluster.node import LocalNode, NodeError, NodeFailedError, token_environment  # noqa: PLC0415

    environment = token_environment(token)
    if foreground:
        os.chdir("/")
        os.execve(command[0], command, environment)
    try:
        LocalNode(_folder()).start(command, environment, role, address)
    except NodeError as error:
        fail(str(error), 2)
    except (NodeFailedError, OSError) as error:
        fail(str(error), 1)


def _folder() -> Path:
    return data_directory().expanduser().absolute() / "cluster"


def _token(given: Path | None) -> Path:
    return given.expanduser().absolute() if given else _folder() / "token"
