"""`earshot serve`."""

import asyncio
import math
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from orchestrator.places import HOST, PORT, data_directory

_NO_LIMIT = "without it, as many as fit"


def register(app: typer.Typer) -> None:
    """Add the command to the program."""

    @app.command()
    def serve(
        host: Annotated[str, typer.Option(help="Address to listen on; beyond this machine tokens are needed.")] = HOST,
        port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = PORT,
        data_dir: Annotated[
            Path | None, typer.Option(help="Where jobs are kept; by default $EARSHOT_DATA or ~/.local/share/earshot.")
        ] = None,
        database_url: Annotated[
            str | None,
            typer.Option(
                envvar="EARSHOT_DATABASE_URL", help="postgresql://…; by default a file in the data directory."
            ),
        ] = None,
        ray_address: Annotated[
            str | None,
            typer.Option(
                envvar="EARSHOT_RAY_ADDRESS",
                help="The cluster's dashboard, http://HEAD:8265; by default a Ray on this machine is started.",
            ),
        ] = None,
        autoscaling: Annotated[
            bool, typer.Option(help="The cluster starts nodes on demand: what it has now bounds no job.")
        ] = False,
        python: Annotated[str, typer.Option(help="Interpreter with Earshot on the cluster's head.")] = sys.executable,
        max_running: Annotated[int, typer.Option(min=1, help="Jobs at once.")] = 2,
        max_running_per_user: Annotated[int | None, typer.Option(min=1, help=f"Jobs at once; {_NO_LIMIT}.")] = None,
        max_gpus: Annotated[float | None, typer.Option(min=0, help=f"GPUs of all jobs; {_NO_LIMIT}.")] = None,
        max_gpus_per_user: Annotated[float | None, typer.Option(min=0, help=f"GPUs; {_NO_LIMIT}.")] = None,
        preemption: Annotated[
            bool, typer.Option(help="A job may take the place of ones of lower priority, which go on later.")
        ] = False,
        keep_days: Annotated[
            float,
            typer.Option(min=0, help="Remove jobs, run directories too, so long after their end; 0 keeps all."),
        ] = 0,
        storage: Annotated[
            str | None,
            typer.Option(
                envvar="EARSHOT_STORAGE",
                help="s3://…, gs://… or another URL under which jobs' runs are stored too; credentials come from the "
                "environment of the cluster's head.",
            ),
        ] = None,
        root: Annotated[
            list[Path] | None, typer.Option(help="Folder under which jobs' files may lie; repeatable; by default home.")
        ] = None,
        reward_module: Annotated[
            list[str] | None, typer.Option(help="Module whose functions jobs may use as rewards; repeatable.")
        ] = None,
        judge_host: Annotated[
            list[str] | None, typer.Option(help="HOST or HOST:PORT that may judge jobs' completions; repeatable.")
        ] = None,
        judge_key: Annotated[
            list[str] | None,
            typer.Option(help="Environment variable whose content jobs may have sent to a judge; repeatable."),
        ] = None,
    ) -> None:
        """Take jobs over REST, queue them and run them on a Ray cluster."""
        if ray_address is not None and not ray_address.startswith(("http://", "https://")):
            _fail(f"--ray-address: {ray_address!r} is no dashboard's URL; write http://HEAD:8265", 2)
        if storage is not None:
            storage = _checked_storage(storage)
        # Ray's client would follow these instead of what it is told.
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            os.environ.pop(name, None)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        from orchestrator.service.observability.json_log import log_as_json  # noqa: PLC0415
        from orchestrator.service.server import ServeError, ServerSettings  # noqa: PLC0415
        from orchestrator.service.server import serve as run  # noqa: PLC0415
        from orchestrator.service.store.database import DatabaseUrlError, StoreUnavailableError  # noqa: PLC0415
        from orchestrator.service.supervision.limits import Limits  # noqa: PLC0415

        log_as_json()
        settings = ServerSettings(
            data_dir=(data_dir or data_directory()).expanduser().absolute(),
            host=host,
            port=port,
            database_url=database_url,
            ray_address=ray_address,
            autoscaling=autoscaling,
            python=python,
            limits=Limits(
                running=max_running,
                running_per_user=max_running_per_user or math.inf,
                gpus=math.inf if max_gpus is None else max_gpus,
                gpus_per_user=math.inf if max_gpus_per_user is None else max_gpus_per_user,
            ),
            preemption=preemption,
            storage=storage,
            keep_days=keep_days,
            roots=tuple(folder.expanduser().resolve() for folder in root or [Path.home()]),
            reward_modules=tuple(reward_module or ()),
            judge_hosts=tuple(judge_host or ()),
            judge_keys=tuple(judge_key or ()),
        )
        try:
            asyncio.run(run(settings))
        except (ServeError, DatabaseUrlError) as error:
            _fail(str(error), 2)
        except StoreUnavailableError as error:
            _fail(str(error), 1)


def _checked_storage(url: str) -> str:
    from orchestrator.job.spec_file import SpecError  # noqa: PLC0415
    from orchestrator.storage.location import check_kind  # noqa: PLC0415

    try:
        check_kind(url := url.rstrip("/"))
    except SpecError as error:
        _fail(f"--storage: {str(error).removeprefix('storage: ')}", 2)
    return url


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"earshot: {' '.join(message.split())}", err=True)
    raise typer.Exit(code)
