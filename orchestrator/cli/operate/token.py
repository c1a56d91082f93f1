"""`earshot token create|list|revoke`.

These commands open the service's database themselves, so that a token can exist before the service listens beyond this
machine. Access to the database is all they need.
"""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from audio_qa.errors import InputError, shown
from orchestrator.cli.options import LONGEST_DAYS, DatabaseUrl, DataDir, Json, finite
from orchestrator.display.table import Table, figure, key, output_console, show, text
from orchestrator.places import data_directory, database_of, runs_of
from orchestrator.service.store.access import Role, TokenRecord
from orchestrator.service.store.credentials import new_token, token_hash
from orchestrator.service.store.store import Store

Result = TypeVar("Result")

token = typer.Typer(add_completion=False, help="Create, list and revoke the tokens of the service.")


@token.command()
def create(
    owner: Annotated[
        str, typer.Argument(metavar="OWNER", help="User of the token, who owns the jobs submitted with it.")
    ],
    role: Annotated[
        Role,
        typer.Option(
            help="viewer: see own jobs; submitter: also submit and change them; admin: all jobs; "
            "monitor: only the metrics of all jobs, for Prometheus."
        ),
    ] = Role.SUBMITTER,
    name: Annotated[str | None, typer.Option(help="Purpose of the token. Default: the owner.")] = None,
    days: Annotated[
        float | None,
        typer.Option(min=0, max=LONGEST_DAYS, callback=finite, help="Days until the token expires. Default: never."),
    ] = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    as_json: Json = False,
) -> None:
    """Create a token and print it once.

    The database stores only its hash.
    """
    if not 0 < len(owner) <= 128 or not owner.isprintable():
        raise InputError("an owner is a name of 1 to 128 printable characters")
    if days == 0:
        raise InputError("--days: a token of 0 days is expired; give more, or leave it out for one that never expires")
    secret = new_token()
    expires = None if days is None else datetime.now(UTC) + timedelta(days=days)

    async def make(store: Store) -> TokenRecord:
        made = await store.create_token(
            name=name or owner, owner=owner, role=role, token_hash=token_hash(secret), expires_at=expires
        )
        await store.audit(_caller(), "token.create", target=made.id, detail={"owner": owner, "role": role.value})
        return made

    made = _on_store(make, data_dir, database_url)
    if as_json:
        typer.echo(json.dumps(_plain(made) | {"token": secret}))
    else:
        typer.echo(secret)
        typer.echo(
            f"Token {made.id} of {owner}, {role.value}. It is not shown again; set EARSHOT_TOKEN to use it.", err=True
        )


@token.command(name="list")
def list_tokens(
    revoked: Annotated[bool, typer.Option("--revoked", help="Include revoked tokens.")] = False,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    as_json: Json = False,
) -> None:
    """List the tokens, without their secrets."""

    async def find(store: Store) -> list[TokenRecord]:
        return await store.list_tokens(include_revoked=revoked)

    found = _on_store(find, data_dir, database_url)
    if as_json:
        typer.echo(json.dumps({"items": [_plain(token) for token in found], "next_cursor": None}))
        return
    table = Table(
        key("token"),
        text("name", 1),
        text("owner", 2),
        figure("role", 4),
        figure("created", 1),
        figure("expires", 3),
        *([figure("revoked", 2)] if revoked else []),
    )
    for one in found:
        times = (one.created_at, one.expires_at, one.revoked_at)[: 3 if revoked else 2]
        table.add(one.id, one.name, one.owner, one.role.value, *map(_local, times))
    show(output_console(), table if found else "There are no tokens.")


@token.command()
def revoke(
    token_id: Annotated[str, typer.Argument(metavar="TOKEN", help="Token id, as `earshot token list` shows it.")],
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    as_json: Json = False,
) -> None:
    """Revoke a token: requests with it are refused from now on."""

    async def end(store: Store) -> bool:
        done = await store.revoke_token(token_id)
        await store.audit(_caller(), "token.revoke", target=token_id, outcome="ok" if done else "no such token")
        return done

    if not _on_store(end, data_dir, database_url):
        raise InputError(f"there is no token {shown(token_id)} to revoke; `earshot token list` shows them")
    typer.echo(json.dumps({"id": token_id, "revoked": True}) if as_json else f"Token {token_id} is revoked.")


def _on_store(action: Callable[[Store], Awaitable[Result]], data_dir: Path | None, database_url: str | None) -> Result:
    """Open the service's store and return the result of `action` on it."""
    folder = (data_dir or data_directory()).expanduser().absolute()

    async def run() -> Result:
        async with Store(database_url or database_of(folder), runs_of(folder)) as store:
            return await action(store)

    return asyncio.run(run())


def _local(at: datetime | None) -> str:
    return f"{at.astimezone():%Y-%m-%d %H:%M}" if at else "–"


def _caller() -> str:
    return f"command line, user {os.getuid()}"


def _plain(token: TokenRecord) -> dict[str, str | None]:
    times = {name: getattr(token, name) for name in ("created_at", "expires_at", "revoked_at")}
    return {"id": token.id, "name": token.name, "owner": token.owner, "role": token.role.value} | {
        name: at.isoformat() if at else None for name, at in times.items()
    }
