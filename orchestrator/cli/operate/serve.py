"""`earshot serve`."""

import asyncio
import math
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from audio_qa.errors import InputError, shown
from orchestrator.cli.options import LONGEST_DAYS, DatabaseUrl, DataDir, finite
from orchestrator.job.spec_file import SpecError
from orchestrator.places import HOST, PORT, data_directory
from orchestrator.service.observability.json_log import log_as_json
from orchestrator.service.server import ServerSettings
from orchestrator.service.server import serve as run_service
from orchestrator.service.supervision.limits import Limits
from orchestrator.storage.location import check_kind

_NO_LIMIT = "Default: no limit but the cluster."


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; beyond this machine, tokens are required.")] = HOST,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for a free one.")] = PORT,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            envvar="EARSHOT_RAY_ADDRESS",
            help="Dashboard of the Ray cluster, http://HEAD:8265. Default: start Ray on this machine.",
        ),
    ] = None,
    autoscaling: Annotated[
        bool, typer.Option(help="The cluster adds nodes on demand, so its current size does not limit a job.")
    ] = False,
    python: Annotated[
        str | None,
        typer.Option(help="Python interpreter with Earshot on the head of the cluster. Default: the service's own."),
    ] = None,
    max_running: Annotated[int, typer.Option(min=1, help="Maximum number of running jobs.")] = 2,
    max_running_per_user: Annotated[
        int | None, typer.Option(min=1, help=f"Maximum number of running jobs of one user. {_NO_LIMIT}")
    ] = None,
    max_gpus: Annotated[
        float | None,
        typer.Option(min=0, callback=finite, help=f"Maximum number of GPUs of all running jobs. {_NO_LIMIT}"),
    ] = None,
    max_gpus_per_user: Annotated[
        float | None,
        typer.Option(
            min=0, callback=finite, help=f"Maximum number of GPUs of the running jobs of one user. {_NO_LIMIT}"
        ),
    ] = None,
    preemption: Annotated[
        bool, typer.Option(help="Let a job preempt jobs of lower priority, which continue later.")
    ] = False,
    keep_days: Annotated[
        float,
        typer.Option(
            min=0,
            max=LONGEST_DAYS,
            callback=finite,
            help="Days until an ended job and its run directory are removed; 0 keeps them.",
        ),
    ] = 0,
    storage: Annotated[
        str | None,
        typer.Option(
            envvar="EARSHOT_STORAGE",
            help="Storage for copies of all runs: s3://…, gs://… or another URL. The credentials come from the "
            "environment of the head of the cluster.",
        ),
    ] = None,
    root: Annotated[
        list[Path] | None, typer.Option(help="Folder that jobs may read files from; repeatable. Default: home.")
    ] = None,
    reward_module: Annotated[
        list[str] | None, typer.Option(help="Python module whose functions jobs may use as rewards; repeatable.")
    ] = None,
    judge_host: Annotated[
        list[str] | None, typer.Option(help="HOST or HOST:PORT that jobs may use as a judge; repeatable.")
    ] = None,
    judge_key: Annotated[
        list[str] | None,
        typer.Option(help="Environment variable whose value jobs may send to a judge as its key; repeatable."),
    ] = None,
) -> None:
    """Run the service: take jobs over REST and schedule them.

    The jobs run on a Ray cluster.
    """
    if ray_address is not None and not ray_address.startswith(("http://", "https://")):
        raise InputError(f"--ray-address: {shown(ray_address)} is not a dashboard's URL; write http://HEAD:8265")
    if storage is not None:
        storage = _checked_storage(storage)
    # Ray's client would prefer these to the address it is given.
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        os.environ.pop(name, None)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    log_as_json()
    settings = ServerSettings(
        data_dir=(data_dir or data_directory()).expanduser().absolute(),
        host=host,
        port=port,
        database_url=database_url,
        ray_address=ray_address,
        autoscaling=autoscaling,
        python=python or sys.executable,
        limits=Limits(
            running=max_running,
            running_per_user=max_running_per_user or math.inf,
            gpus=math.inf if max_gpus is None else max_gpus,
            gpus_per_user=math.inf if max_gpus_per_user is None else max_gpus_per_user,
        ),
        preemption=preemption,
        storage=storage,
        keep_days=keep_days,
        roots=tuple(_checked_root(folder) for folder in root or [Path.home()]),
        reward_modules=tuple(reward_module or ()),
        judge_hosts=tuple(judge_host or ()),
        judge_keys=tuple(judge_key or ()),
    )
    asyncio.run(run_service(settings))


def _checked_root(folder: Path) -> Path:
    """Return the absolute path of a folder. Raises InputError."""
    path = folder.expanduser().resolve()
    if not path.is_dir():
        raise InputError(f"--root: {str(path)!r} is not a folder; correct the path")
    return path


def _checked_storage(url: str) -> str:
    """Return the URL without a trailing slash. Raises SpecError."""
    try:
        check_kind(url := url.rstrip("/"))
    except SpecError as error:
        raise SpecError(f"--storage: {str(error).removeprefix('storage: ')}") from error
    return url
