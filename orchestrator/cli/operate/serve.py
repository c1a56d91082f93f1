"""`earshot serve`."""

import asyncio
import itertools
import math
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from audio_qa.errors import InputError, shown
from orchestrator.cli.options import LARGEST_COUNT, LONGEST_DAYS, DatabaseUrl, DataDir, finite
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
    max_running: Annotated[int, typer.Option(min=1, max=LARGEST_COUNT, help="Maximum number of running jobs.")] = 2,
    max_running_per_user: Annotated[
        int | None,
        typer.Option(min=1, max=LARGEST_COUNT, help=f"Maximum number of running jobs of one user. {_NO_LIMIT}"),
    ] = None,
    max_gpus: Annotated[
        float | None,
        typer.Option(
            min=0, max=LARGEST_COUNT, callback=finite, help=f"Maximum number of GPUs of all running jobs. {_NO_LIMIT}"
        ),
    ] = None,
    max_gpus_per_user: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=LARGEST_COUNT,
            callback=finite,
            help=f"Maximum number of GPUs of the running jobs of one user. {_NO_LIMIT}",
        ),
    ] = None,
    max_queued: Annotated[int, typer.Option(min=1, max=LARGEST_COUNT, help="Maximum number of queued jobs.")] = 10_000,
    max_queued_per_user: Annotated[
        int, typer.Option(min=1, max=LARGEST_COUNT, help="Maximum number of queued jobs of one user.")
    ] = 1_000,
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
        list[str] | None,
        typer.Option(
            metavar="[OWNER=]FOLDER",
            help="Folder that jobs may read files from, or only those of an owner; repeatable. Default: home.",
        ),
    ] = None,
    cache_root: Annotated[
        list[Path] | None,
        typer.Option(help="Folder in which jobs may keep an audio cache on disk; repeatable. Default: none."),
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
    require_token: Annotated[
        bool,
        typer.Option(
            "--require-token",
            help="Require a token from everyone. Default: on loopback, the user who starts the service needs none.",
        ),
    ] = False,
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
    roots, owner_roots = _checked_roots(root or [str(Path.home())])
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
            queued=max_queued,
            queued_per_user=max_queued_per_user,
        ),
        preemption=preemption,
        storage=storage,
        keep_days=keep_days,
        roots=roots,
        owner_roots=owner_roots,
        cache_roots=tuple(_checked_root(folder, "--cache-root") for folder in cache_root or ()),
        reward_modules=tuple(reward_module or ()),
        judge_hosts=tuple(judge_host or ()),
        judge_keys=tuple(judge_key or ()),
        require_token=require_token,
    )
    asyncio.run(run_service(settings))


def _checked_roots(values: list[str]) -> tuple[tuple[Path, ...], dict[str, tuple[Path, ...]]]:
    """Return the roots of all jobs, and those of single owners. Raises InputError."""
    roots: list[Path] = []
    of_owners: dict[str, tuple[Path, ...]] = {}
    for value in values:
        owner, is_owned, folder = value.partition("=")
        # A path may contain the character, too.
        if not is_owned or "/" in owner or not owner:
            roots.append(_checked_root(Path(value)))
        else:
            of_owners[owner] = (*of_owners.get(owner, ()), _checked_root(Path(folder)))
    for owner, own in of_owners.items():
        others = [(name, root) for name, found in of_owners.items() for root in found if name != owner]
        for one, (name, root) in itertools.product(own, others):
            if one != root and one.is_relative_to(root):
                raise InputError(
                    f"--root: {shown(str(one))} of {shown(owner)} lies in a root of {shown(name)}; "
                    "give owners folders beside each other"
                )
    return tuple(roots), of_owners


def _checked_root(folder: Path, option: str = "--root") -> Path:
    """Return the absolute path of a folder. Raises InputError."""
    path = folder.expanduser().resolve()
    if not path.is_dir():
        raise InputError(f"{option}: {str(path)!r} is not a folder; correct the path")
    return path


def _checked_storage(url: str) -> str:
    """Return the URL without a trailing slash. Raises SpecError."""
    try:
        check_kind(url := url.rstrip("/"))
    except SpecError as error:
        raise SpecError(f"--storage: {str(error).removeprefix('storage: ')}") from error
    return url
