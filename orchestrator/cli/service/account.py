"""Commands about the service and who uses it: whoami, limits, audit."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated

import typer

from orchestrator.cli.options import LONGEST_DAYS, Json, Url, finite
from orchestrator.cli.service.connection import print_answer, service
from orchestrator.cli.service.tables import local_time
from orchestrator.client import AuditView, LimitsView, MeView, VersionView
from orchestrator.display.table import Facts, Table, figure, key, text
from orchestrator.schemas.about import BoundsView

_KIB, _MIB = 2**10, 2**20


def whoami(url: Url = None, as_json: Json = False) -> None:
    """Show the user of your token, their role, and the service."""
    with service(url) as client:
        me, version, address = client.me(), client.version(), client.url
    print_answer(me, as_json, _me_facts(me, version, address))


def limits(url: Url = None, as_json: Json = False) -> None:
    """Show what the service allows: jobs, GPUs, folders, rewards, judges."""
    with service(url) as client:
        found = client.limits()
    print_answer(found, as_json, _limits_facts(found))


def audit(
    user: Annotated[str | None, typer.Option(help="Only what this user asked for.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this action, such as job.cancel.")] = None,
    target: Annotated[str | None, typer.Option(help="Only changes to this job or token.")] = None,
    days: Annotated[
        float | None,
        typer.Option(min=0, max=LONGEST_DAYS, callback=finite, help="Only the last days. Default: all."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="Maximum number of entries.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="next_cursor of the previous page.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List what was done or refused, newest first.

    You see your own actions, an admin those of all users.
    """
    since = None if days is None else datetime.now().astimezone() - timedelta(days=days)
    with service(url) as client:
        page = client.audit(actor=user, action=action, target=target, since=since, cursor=cursor, limit=limit)
    more = [f"There are more: earshot audit --cursor {page.next_cursor}"] if page.next_cursor else []
    print_answer(page, as_json, _audit_table(page.items) if page.items else "There are no entries.", *more)


def _me_facts(me: MeView, version: VersionView, address: str) -> Facts:
    facts = Facts()
    facts.add("user", me.owner)
    facts.add("role", me.role)
    if me.token is None:
        facts.add("token", "none: the service trusts the user of this machine who started it")
    else:
        facts.add("token", f"{me.token.id} ({me.token.name})")
        facts.add("expires", local_time(me.token.expires_at) if me.token.expires_at else "never")
    facts.add("jobs", ", ".join(f"{count} {state}" for state, count in me.jobs.items() if count) or "none")
    facts.add("service", f"{address} (Earshot {version.earshot}, Ray {version.ray})")
    return facts


def _limits_facts(found: LimitsView) -> Facts:
    facts = Facts()
    for who, bounds in (("all users", found.jobs), ("each user", found.jobs_per_user)):
        facts.add(f"jobs of {who}", _bounds_text(bounds))
    facts.add("preemption", "yes" if found.preemption else "no")
    facts.add("folders", "\n".join(found.roots))
    for name, values in (
        ("cache folders", found.cache_roots),
        ("reward modules", found.reward_modules),
        ("judges", found.judge_hosts),
        ("judge keys", found.judge_keys),
    ):
        facts.add(name, "\n".join(values) or "none")
    facts.add("storage", "runs are copied to the storage of the service" if found.storage else "none")
    facts.add("ended jobs", f"kept for {found.keep_days:g} days" if found.keep_days else "kept")
    of = found.requests
    facts.add(
        "requests", f"{of.per_second:,.10g} per second, {of.burst:,} at once; {of.streams:,} open streams of all users"
    )
    facts.add("job files", f"{_size(of.body_bytes)} as JSON, {_size(of.yaml_bytes)} as YAML")
    return facts


def _size(count: int) -> str:
    return f"{count / _MIB:.4g} MiB" if count >= _MIB else f"{count / _KIB:.4g} KiB"


def _bounds_text(bounds: BoundsView) -> str:
    parts = (("running", bounds.running), ("queued", bounds.queued), ("GPUs", bounds.gpus))
    return ", ".join(f"{'any number of' if bound is None else f'{bound:,g}'} {name}" for name, bound in parts)


def _audit_table(entries: Sequence[AuditView]) -> Table:
    """Return a table with one row for each entry."""
    table = Table(
        figure("time", 1), text("user", 2), key("action"), key("target"), text("outcome", 3), text("detail", 1)
    )
    for entry in entries:
        detail = " ".join(f"{name}={value}" for name, value in entry.detail.items() if value not in (None, ""))
        time = local_time(entry.at, seconds=True)
        table.add(time, entry.actor, entry.action, entry.target, entry.outcome, detail)
    return table
