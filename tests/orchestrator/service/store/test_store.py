"""The store, on SQLite and PostgreSQL."""

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection
from support.postgres import Postgres, small_spec

from orchestrator.schemas.job_state import ALLOWED, ENDED, JobState
from orchestrator.service.store.access import Role
from orchestrator.service.store.database import DatabaseUrlError
from orchestrator.service.store.store import (
    CursorError,
    IdempotencyError,
    JobNotFoundError,
    StaleStateError,
    Store,
    StoreUnavailableError,
    TransitionError,
)
from orchestrator.service.store.tables import metadata

Body = Callable[[Store], Awaitable[None]]
On = Callable[[Body], None]


@pytest.fixture
def on_store(database_url: str, tmp_path: Path) -> On:
    """Return a function that runs a coroutine on an open store."""

    def run(body: Body) -> None:
        async def main() -> None:
            async with Store(database_url, tmp_path / "runs") as store:
                await body(store)

        asyncio.run(main())

    return run


def test_a_submitted_job_is_found_again(on_store: On, tmp_path: Path) -> None:
    async def body(store: Store) -> None:
        job, created = await store.submit(small_spec(name="first"), owner="ann", priority=2)
        assert created
        assert job.state is JobState.QUEUED
        assert job == await store.get(job.id)
        assert (job.name, job.owner, job.priority, job.attempt) == ("first", "ann", 2, 0)
        assert job.run_dir == str(tmp_path / "runs" / job.id)
        assert job.created_at.tzinfo is not None
        assert [t.to_state for t in await store.history(job.id)] == [JobState.QUEUED]

    on_store(body)


def test_a_reused_key_gives_the_same_job_also_concurrently(on_store: On) -> None:
    async def body(store: Store) -> None:
        submit = [store.submit(small_spec(), owner="ann", idempotency_key="k") for _ in range(8)]
        results = await asyncio.gather(*submit)
        assert len({job.id for job, _ in results}) == 1
        assert sum(created for _, created in results) == 1
        with pytest.raises(IdempotencyError, match="used for another job"):
            await store.submit(small_spec(steps=7), owner="ann", idempotency_key="k")
        with pytest.raises(IdempotencyError):
            await store.submit(small_spec(), owner="ann", idempotency_key="k", priority=1)
        assert (await store.submit(small_spec(), owner="bob", idempotency_key="k"))[1]

    on_store(body)


def test_pages_have_every_job_once_while_new_ones_are_submitted(on_store: On) -> None:
    async def body(store: Store) -> None:
        made = [(await store.submit(small_spec(name=f"j{i}"), owner="ann"))[0].id for i in range(7)]
        page = await store.list(limit=3)
        seen = [job.id for job in page.items]
        while page.next_cursor is not None:
            await store.submit(small_spec(name="later"), owner="ann")
            page = await store.list(limit=3, cursor=page.next_cursor)
            seen += [job.id for job in page.items]
        assert seen == made[::-1]
        for bad in ("", "x", "ajE!", "a" * 500, "ajk5OTk5OTk5OTk5OTk5OTk5", "\0", "é"):
            with pytest.raises(CursorError):
                await store.list(cursor=bad)

    on_store(body)


def test_lists_are_filtered(on_store: On) -> None:
    async def body(store: Store) -> None:
        first, _ = await store.submit(small_spec(name="a"), owner="ann")
        second, _ = await store.submit(small_spec(name="b"), owner="bob")
        await store.transition(second.id, JobState.QUEUED, JobState.STARTING)
        assert [j.id for j in (await store.list(owner="ann")).items] == [first.id]
        assert [j.id for j in (await store.list(name="b")).items] == [second.id]
        assert [j.id for j in (await store.list(states={JobState.STARTING})).items] == [second.id]
        assert not (await store.list(states=ENDED)).items
        counts = await store.counts()
        assert (counts[JobState.QUEUED], counts[JobState.STARTING], counts[JobState.FAILED]) == (1, 1, 0)

    on_store(body)


def test_only_one_of_many_starts_a_job(on_store: On) -> None:
    async def body(store: Store) -> None:
        job, _ = await store.submit(small_spec(), owner="ann")
        starts = [store.transition(job.id, JobState.QUEUED, JobState.STARTING, attempt=n) for n in range(1, 9)]
        results = await asyncio.gather(*starts, return_exceptions=True)
        won = [result for result in results if not isinstance(result, BaseException)]
        assert len(won) == 1
        assert all(isinstance(r, StaleStateError) for r in results if isinstance(r, BaseException))
        assert (await store.get(job.id)).attempt == won[0].attempt
        assert len(await store.history(job.id)) == 2

    on_store(body)


@given(steps=st.lists(st.tuples(st.sets(st.sampled_from(JobState), min_size=1, max_size=4), st.sampled_from(JobState))))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_states_change_only_as_allowed(on_store: On, steps: list[tuple[set[JobState], JobState]]) -> None:
    async def body(store: Store) -> None:
        job, _ = await store.submit(small_spec(), owner="ann")
        states = [JobState.QUEUED]
        for expected, to in steps:
            now = states[-1]
            if now in expected and to in ALLOWED[now]:
                job = await store.transition(job.id, expected, to, f"to {to}")
                states.append(to)
                assert (job.state, job.cause) == (to, f"to {to}")
            else:
                with pytest.raises(StaleStateError if now not in expected else TransitionError):
                    await store.transition(job.id, expected, to)
                assert (await store.get(job.id)).state is now
        history = await store.history(job.id)
        assert [t.to_state for t in history] == states
        assert [t.from_state for t in history] == [None, *states[:-1]]
        assert (job.finished_at is not None) == (states[-1] in ENDED)

    on_store(body)


def test_cancelling(on_store: On) -> None:
    async def body(store: Store) -> None:
        waiting, _ = await store.submit(small_spec(), owner="ann")
        assert (await store.request_cancel(waiting.id, "by ann")).state is JobState.CANCELLED
        assert (await store.request_cancel(waiting.id, "again")).cause == "by ann"
        running, _ = await store.submit(small_spec(), owner="ann")
        await store.transition(running.id, JobState.QUEUED, JobState.STARTING)
        asked = await store.request_cancel(running.id, "by ann")
        assert asked.state is JobState.STARTING
        assert asked.cancel_requested_at is not None
        assert (await store.request_cancel(running.id, "again")).cancel_requested_at == asked.cancel_requested_at

    on_store(body)


def test_a_missing_job(on_store: On) -> None:
    async def body(store: Store) -> None:
        for identifier in ("0123456789abcdef", "", "../x", "a\0b", "\ud800", "x" * 1000):
            for ask in (store.get, store.history):
                with pytest.raises(JobNotFoundError):
                    await ask(identifier)
            with pytest.raises(JobNotFoundError):
                await store.request_cancel(identifier, "x")

    on_store(body)


def test_a_cause_may_contain_anything(on_store: On) -> None:
    async def body(store: Store) -> None:
        job, _ = await store.submit(small_spec(), owner="ann")
        ended = await store.transition(
            job.id, JobState.QUEUED, JobState.FAILED, "log: \0\x1b[0m 'x'; DROP TABLE \N{BELL}"
        )
        assert ended.cause == "log: �\x1b[0m 'x'; DROP TABLE \N{BELL}"

    on_store(body)


def test_only_jobs_that_ended_long_ago_are_removed(on_store: On) -> None:
    async def body(store: Store) -> None:
        waiting, _ = await store.submit(small_spec(), owner="ann")
        ended, _ = await store.submit(small_spec(), owner="ann", idempotency_key="k")
        await store.request_cancel(ended.id, "x")
        assert not await store.ended_before(datetime.now(UTC) - timedelta(days=1))
        old = await store.ended_before(datetime.now(UTC) + timedelta(seconds=1))
        assert [job.id for job in old] == [ended.id]
        await store.remove(ended.id)
        with pytest.raises(StaleStateError):
            await store.remove(waiting.id)
        assert (await store.get(waiting.id)).state is JobState.QUEUED
        with pytest.raises(JobNotFoundError):
            await store.history(ended.id)
        again, created = await store.submit(small_spec(), owner="ann", idempotency_key="k")
        assert created
        assert again.id != ended.id

    on_store(body)


def test_tokens_and_audit(on_store: On) -> None:
    async def body(store: Store) -> None:
        token = await store.create_token(name="ci", owner="ann", role=Role.SUBMITTER, token_hash="h1")
        late = datetime.now(UTC) - timedelta(seconds=1)
        await store.create_token(name="old", owner="ann", role=Role.ADMIN, token_hash="h2", expires_at=late)
        with pytest.raises(ValueError, match="a token with this secret"):
            await store.create_token(name="ci", owner="ann", role=Role.VIEWER, token_hash="h1")
        assert await store.find_token("h1") == token
        assert await store.find_token("h2") is None
        assert await store.find_token("h3") is None
        assert await store.revoke_token(token.id)
        assert not await store.revoke_token(token.id)
        assert await store.find_token("h1") is None
        assert [t.name for t in await store.list_tokens()] == ["old"]
        assert [t.name for t in await store.list_tokens(include_revoked=True)] == ["ci", "old"]
        await store.audit("ann", "token.revoke", target=token.id)
        await store.audit("bob", "job.cancel", outcome="not the owner", detail={"job": "x"})
        entries = await store.audit_log()
        assert [(e.actor, e.outcome) for e in entries] == [("bob", "not the owner"), ("ann", "ok")]
        assert await store.remove_audit_before(datetime.now(UTC)) == 2

    on_store(body)


def test_migrations_create_the_tables_of_the_code(on_store: On) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    def differences(connection: Connection) -> list[object]:
        return compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata)

    async def body(store: Store) -> None:
        async with store._database.read() as connection:
            assert await connection.run_sync(differences) == []

    on_store(body)


def test_an_empty_database_can_be_opened_concurrently(database_url: str, tmp_path: Path) -> None:
    async def use(number: int) -> int:
        async with Store(database_url, tmp_path / "runs") as store:
            await store.submit(small_spec(), owner=f"user{number}")
            return len((await store.list()).items)

    async def main() -> list[int]:
        return await asyncio.gather(*(use(number) for number in range(6)))

    assert max(asyncio.run(main())) == 6
    if database_url.startswith("sqlite"):
        with closing(sqlite3.connect(database_url.removeprefix("sqlite:///"))) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_lost_server_is_reported_and_found_again(postgres: Postgres, tmp_path: Path) -> None:
    async def main() -> None:
        async with Store(postgres.new_database(), tmp_path) as store:
            job, _ = await store.submit(small_spec(), owner="ann")
            await asyncio.to_thread(postgres.stop)
            try:
                for _ in range(2):
                    with pytest.raises(StoreUnavailableError):
                        await store.get(job.id)
                with pytest.raises(StoreUnavailableError):
                    await store.transition(job.id, JobState.QUEUED, JobState.STARTING)
            finally:
                await asyncio.to_thread(postgres.start)
            assert await store.get(job.id) == job

    asyncio.run(main())


def test_a_server_that_does_not_answer_times_out(postgres: Postgres, tmp_path: Path) -> None:
    async def main() -> None:
        async with Store(postgres.new_database(), tmp_path) as store:
            job, _ = await store.submit(small_spec(), owner="ann")
            postgres.freeze()
            try:
                for _ in range(2):
                    began = time.monotonic()
                    with pytest.raises(StoreUnavailableError):
                        await store.request_cancel(job.id, "by ann")
                    assert time.monotonic() - began < 25
            finally:
                postgres.thaw()
            assert (await store.request_cancel(job.id, "by ann")).state is JobState.CANCELLED

    asyncio.run(main())


def test_other_databases_are_refused(tmp_path: Path) -> None:
    for url in ("mysql://x/y", "nonsense", "", "oracle://x"):
        with pytest.raises(DatabaseUrlError):
            Store(url, tmp_path)
