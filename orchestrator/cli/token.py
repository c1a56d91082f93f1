"""`earshot token create|list|revoke`: on the service's database itself, so that there can be a token before the service
listens beyond this machine. Whoever can read the database needs no token to do this.
"""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from orchestrator.cli.service.link import Json, fail
from orchestrator.places import data_directory, database_of, runs_of
from orchestrator.service.store.access import Role, TokenRecord

if TYPE_CHECKING:  # a database takes a moment to import
    from orchestrator.service.store.store import Store

Result = TypeVar("Result")

DataDir = Annotated[
    Path | None, typer.Option(help="The service's; by default $EARSHOT_DATA or ~/.local/share/earshot.")
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(envvar="EARSHOT_DATABASE_URL", help="The service's, where it is not in the data directory."),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    token = typer.Typer(no_args_is_help=True, help="Tokens for the service.")
    app.add_typer(token, name="token")

    @token.command()
    def create(
        owner: Annotated[str, typer.Argument(help="Whose it is: jobs belong to owners.")],
        role: Annotated[
            Role, typer.Option(help="viewer: see own jobs; submitter: also submit and change them; admin: all jobs.")
        ] = Role.SUBMITTER,
        name: Annotated[str | None, typer.Option(help="What it is for; by default the owner.")] = None,
        days: Annotated[float | None, typer.Option(min=0, help="Until it expires; without it never.")] = None,
        data_dir: DataDir = None,
        database_url: DatabaseUrl = None,
        as_json: Json = False,
    ) -> None:
        """Make a token. It is shown once and kept as its hash only."""
        from orchestrator.service.store.credentials import new_token, token_hash  # noqa: PLC0415

        if not 0 < len(owner) <= 128 or not owner.isprintable():
            fail("an owner is a name of 1 to 128 printable characters", 2)
        secret = new_token()
        expires = None if days is None else datetime.now(UTC) + timedelta(days=days)

        async def make(store: "Store") -> TokenRecord:
            made = await store.create_token(
                name=name or owner, owner=owner, role=role, token_hash=token_hash(secret), expires_at=expires
            )
            await store.audit(_who(), "token.create", target=made.id, detail={"owner": owner, "role": role.value})
            return made

        made = _on_store(make, data_dir, database_url)
        if as_json:
            typer.echo(json.dumps(_plain(made) | {"token": secret}))
        else:
            typer.echo(secret)
            typer.echo(
                f"Token {made.id} of {owner}, {role.value}. It is not shown again; use it as EARSHOT_TOKEN.", err=True
            )

    @token.command(name="list")
    def list_tokens(
        revoked: Annotated[bool, typer.Option("--revoked", help="Revoked ones too.")] = False,
        data_dir: DataDir = None,
        database_url: DatabaseUrl = None,
        as_json: Json = False,
    ) -> None:
        """List tokens, without their secrets, which nobody knows."""

        async def find(store: "Store") -> list[TokenRecord]:
            return await store.list_tokens(include_revoked=revoked)

        found = _on_store(find, data_dir, database_url)
        if as_json:
            typer.echo(json.dumps({"items": [_plain(token) for token in found], "next_cursor": None}))
            return
        from rich.console import Console  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415

        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for title in ("token", "name", "owner", "role", "created", "expires", "revoked"):
            table.add_column(title)
        for one in found:
            times = (one.created_at, one.expires_at, one.revoked_at)
            shown = (f"{at.astimezone():%Y-%m-%d %H:%M}" if at else "–" for at in times)
            table.add_row(one.id, one.name, one.owner, one.role.value, *shown)
        Console().print(table if found else "There are no tokens.")

    @token.command()
    def revoke(
        token_id: Annotated[str, typer.Argument(metavar="TOKEN", help="Its id, as `earshot token list` shows it.")],
        data_dir: DataDir = None,
        database_url: DatabaseUrl = None,
        as_json: Json = False,
    ) -> None:
        """Make a token useless, from its next request on."""

        async def end(store: "Store") -> bool:
            done = await store.revoke_token(token_id)
            await store.audit(_who(), "token.revoke", target=token_id, outcome="ok" if done else "no such token")
            return done

        if not _on_store(end, data_dir, database_url):
            fail(f"there is no token {token_id!r} to revoke; `earshot token list` shows them", 2)
        typer.echo(json.dumps({"id": token_id, "revoked": True}) if as_json else f"Token {token_id} is revoked.")


def _on_store(
    action: Callable[["Store"], Awaitable[Result]], data_dir: Path | None, database_url: str | None
) -> Result:
    """What `action` returns, done on the service's store."""
    from orchestrator.service.store.store import DatabaseUrlError, Store, StoreUnavailableError  # noqa: PLC0415

    folder = (data_dir or data_directory()).expanduser().absolute()

    async def do() -> Result:
        async with Store(database_url or database_of(folder), runs_of(folder)) as store:
            return await action(store)

    try:
        return asyncio.run(do())
    except DatabaseUrlError as error:
        fail(str(error), 2)
    except (StoreUnavailableError, OSError) as error:
        fail(str(error), 1)


def _who() -> str:
    return f"command line, user {os.getuid()}"


def _plain(token: TokenRecord) -> dict[str, str | None]:
    times = {name: getattr(token, name) for name in ("created_at", "expires_at", "revoked_at")}
    return {"id": token.id, "name": token.name, "owner": token.owner, "role": token.role.value} | {
        name: at.isoformat() if at else None for name, at in times.items()
    }
