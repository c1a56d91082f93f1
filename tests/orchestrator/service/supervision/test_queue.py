"""The schedule of a long queue is that of the whole queue, and reads only what it needs of it."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, insert
from support.postgres import Postgres

from orchestrator.schemas.job_state import ACTIVE, JobState
from orchestrator.service.store.database import sqlite_url
from orchestrator.service.store.store import Store
from orchestrator.service.store.tables import jobs, metadata
from orchestrator.service.supervision.limits import Limits
from orchestrator.service.supervision.schedule import schedule_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
INFINITY = float("inf")


def whole_queue(found, limits: Limits, gpus: float):
    """Decide on all jobs at once, as a reader of the rules would."""
    gpus = min(limits.gpus, gpus)
    active = [job for job in found if job.state in ACTIVE]
    start, preempt = [], []

    def room(job, taken, running, most) -> bool:
        return len(taken) < running and sum(other.gpus for other in taken) + job.gpus <= most

    for job in sorted((job for job in found if job.state is JobState.QUEUED), key=lambda job: -job.priority):
        taken = [*active, *start]
        own = [other for other in taken if other.owner == job.owner]
        if not room(job, own, limits.running_per_user, limits.gpus_per_user):
            continue
        if room(job, taken, limits.running, gpus):
            start.append(job)
            continue
        staying = [other for other in taken if other.preempt_requested_at is None]
        victims = []
        for victim in sorted(
            (other for other in staying if other.state in ACTIVE and other.priority < job.priority),
            key=lambda other: (other.priority, -other.started_at.timestamp()),
        ):
            if room(job, staying, limits.running, gpus):
                break
            if len(staying) >= limits.running or victim.gpus:
                staying = [other for other in staying if other is not victim]
                victims.append(victim)
        if room(job, staying, limits.running, gpus):
            preempt = [(victim.id, job.id) for victim in victims]
        break
    return [job.id for job in start], preempt


def row(number: int, state: str, owner: str, priority: int, gpus: float, preempted: bool = False) -> dict[str, object]:
    running = JobState(state) in ACTIVE
    return {
        "id": f"{number:016x}",
        "name": "job",
        "owner": owner,
        "state": state,
        "priority": priority,
        "spec": {},
        "gpus": gpus,
        "created_at": NOW,
        "updated_at": NOW,
        "started_at": NOW + timedelta(seconds=number) if running else None,
        "attempt": int(running),
        "restarts": 0,
        "max_restarts": 3,
        "run_dir": "/nowhere",
        "submission_id": "x" if running else None,
        "preempt_requested_at": NOW if preempted and running else None,
        "body_hash": "",
    }


_rows = st.lists(
    st.tuples(
        st.sampled_from(["queued"] * 6 + ["running", "paused", "recovering", "starting", "failed"]),
        st.sampled_from(["ann", "bob", "cy"]),
        st.integers(-2, 2),
        st.sampled_from([0.0, 0.1, 0.2, 0.5, 1.0, 4.0]),
        st.booleans(),
    ),
    max_size=30,
)
_count = st.sampled_from([1, 2, 5, INFINITY])
_gpus = st.sampled_from([0, 0.3, 1, 2, 5, INFINITY])
_limits = st.builds(Limits, running=_count, running_per_user=_count, gpus=_gpus, gpus_per_user=_gpus)


async def same_as_the_whole_queue(store: Store, rows, limits: Limits, page: int) -> None:
    async with store._database.write() as connection:
        await connection.execute(jobs.delete())
        if rows:
            await connection.execute(insert(jobs), [row(number, *values) for number, values in enumerate(rows)])
    found = sorted((await store.list(limit=500)).items, key=lambda job: job.seq)
    schedule = await schedule_of(store, limits, 6, preemption=True, page=page)
    decided = [job.id for job in schedule.start], [(victim.id, winner.id) for victim, winner in schedule.preempt]
    assert decided == whole_queue(found, limits, 6)
    queued = [job for job in found if job.state is JobState.QUEUED]
    order = sorted(queued, key=lambda job: (-job.priority, job.seq))
    places = {job.id: place for place, job in enumerate(order, 1)}
    assert await store.queue_positions(queued) == places
    for job in queued[:3]:
        assert await store.queue_positions([job]) == {job.id: places[job.id]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for one database, which every example fills again."""
    return tmp_path_factory.mktemp("queue")


@given(rows=_rows, limits=_limits, page=st.sampled_from([1, 2, 5, 32]))
@example(rows=[("queued", owner, 0, 1.0, False) for owner in ("ann", "bob", "ann", "cy")], limits=Limits(9), page=1)
@example(rows=[("queued", "ann", n % 2, 1.0, False) for n in range(5)], limits=Limits(9), page=2)
@example(
    rows=[("running", "ann", 0, 1.0, False), ("queued", "ann", 0, 1.0, False)],
    limits=Limits(9, gpus_per_user=2),
    page=5,
)
@settings(max_examples=80, deadline=None)
def test_the_schedule_is_that_of_the_whole_queue(folder, rows, limits, page) -> None:
    async def body() -> None:
        async with Store(sqlite_url(folder / "earshot.db"), folder) as store:
            await same_as_the_whole_queue(store, rows, limits, page)

    asyncio.run(body())


def test_the_schedule_is_that_of_the_whole_queue_on_postgresql(postgres: Postgres, tmp_path: Path) -> None:
    async def body() -> None:
        async with Store(postgres.new_database(), tmp_path) as store:
            one = [("running", "ann", 0, 0.1, False), *[("queued", "ann", 0, 0.2, False)] * 5]
            more = [*one, ("queued", "bob", 1, 4.0, False), ("queued", "cy", 1, 4.0, False)]
            for rows, most in ((one, 0.3), (more, INFINITY), (more, 1)):
                limits = Limits(running=5, running_per_user=2, gpus_per_user=most)
                await same_as_the_whole_queue(store, rows, limits, 2)

    asyncio.run(body())


@pytest.mark.parametrize(
    ("limits", "owner", "held"),
    [
        (Limits(running=2), "ann", False),
        (Limits(running=9, running_per_user=2), "ann", True),
        (Limits(running=9, gpus_per_user=2), "ann", True),
        (Limits(running=9, gpus_per_user=0.5), "bob", True),
    ],
)
def test_a_long_queue_is_not_read(tmp_path: Path, limits: Limits, owner: str, held: bool) -> None:
    async def body() -> None:
        async with Store(sqlite_url(tmp_path / "earshot.db"), tmp_path) as store:
            rows = [("running", "ann", 0, 1.0), ("running", "ann", 0, 1.0)]
            rows += [("queued", owner, number % 3, 1.0) for number in range(2000)]
            async with store._database.write() as connection:
                await connection.execute(insert(jobs), [row(n, *values) for n, values in enumerate(rows)])
            statements = []
            engine = store._database._engine.sync_engine
            event.listen(engine, "after_cursor_execute", lambda *found: statements.append(found[2]))
            schedule = await schedule_of(store, limits, 8, preemption=held)
            assert (schedule.start, schedule.preempt, schedule.blocked is None) == ([], [], held)
            selects = [statement for statement in statements if statement.startswith("SELECT")]
            assert len(selects) == 2 and "spec" not in selects[1] and "LIMIT" in selects[1]

    asyncio.run(body())


def test_the_index_of_the_queue_answers_alone() -> None:
    index = next(index for index in metadata.tables["jobs"].indexes if index.name == "ix_jobs_queue")
    assert [str(part) for part in index.expressions] == [
        "jobs.state",
        "jobs.priority DESC",
        "jobs.seq",
        "jobs.owner",
        "jobs.gpus",
    ]


def test_lists_of_a_state_are_read_from_an_index(tmp_path: Path) -> None:
    async def body() -> None:
        async with Store(sqlite_url(tmp_path / "earshot.db"), tmp_path) as store:
            states = [JobState.RUNNING, JobState.QUEUED, JobState.QUEUED, JobState.FAILED]
            rows = [row(n, states[n % 4].value, "ann" if n % 3 else "bob", 0, 0.0) for n in range(400)]
            async with store._database.write() as connection:
                await connection.execute(insert(jobs), rows)
            plans = []
            engine = store._database._engine.sync_engine

            def explain(connection, cursor, statement, parameters, *_) -> None:
                if statement.startswith("SELECT"):
                    steps = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
                    plans.extend(step.detail for step in steps)

            for wanted in ({JobState.RUNNING}, {JobState.RUNNING, JobState.FAILED}, {JobState.QUEUED}):
                for owner in (None, "ann"):
                    event.listen(engine, "after_cursor_execute", explain)
                    page = await store.list(states=wanted, owner=owner, limit=7)
                    event.remove(engine, "after_cursor_execute", explain)
                    second = await store.list(states=wanted, owner=owner, limit=7, cursor=page.next_cursor)
                    named = {state.value for state in wanted}
                    expected = [r["id"] for r in rows if r["state"] in named and owner in (None, r["owner"])]
                    assert [job.id for job in (*page.items, *second.items)] == expected[::-1][:14]
            assert not [step for step in plans if step.startswith("SCAN jobs")]
            assert [step for step in plans if "ix_jobs_owner_state_seq (owner=? AND state=?)" in step]
            assert [step for step in plans if "ix_jobs_state_seq (state=?)" in step]

    asyncio.run(body())
