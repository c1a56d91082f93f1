"""Two users of a service whose jobs are preempted, whose drivers, Ray and service are killed, beside a busy neighbour.

`make chaos` disturbs it for five minutes, EARSHOT_CHAOS_SECONDS is another time; EARSHOT_CHAOS_SEED is another sequence
of disturbances, which are printed. Whatever the service promised with 201 or 202 is kept, or its failure is an event.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chaos.users import OPTIONS, Chaos, Users
from integration.test_service import Service, job, service

from orchestrator.run.directory import RunDirectory

__all__ = ["job", "service"]

SECONDS = float(os.environ.get("EARSHOT_CHAOS_SECONDS", "0"))
SEED = int(os.environ.get("EARSHOT_CHAOS_SEED", "0"))
GROUP, QUESTIONS = 4, 4
UNCOUNTED = 3
"""Drivers that may be lost with their cluster in a row without counting as a restart."""
OTHERS = ("plasma", "PostgreSQL.")
"""Beginnings of the names of shared memory that Ray and databases keep, also those of other tests."""
CALM_SECONDS = 900.0
"""Longest wait for all to be in order after the last disturbance: jobs start one after another on two cores."""

pytestmark = [
    pytest.mark.timeout(int(4000 + 2 * SECONDS)),
    pytest.mark.skipif(not SECONDS, reason="takes minutes: make chaos"),
]


def shared_memory() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir() if not path.name.startswith(OTHERS)}


@pytest.fixture
def chaos(service: Service, job: dict[str, Any]) -> Iterator[Chaos]:
    service.start(*OPTIONS)
    chaos = Chaos(Users(service), {**job, "checkpoint": {"every": 3, "keep_last": 2}}, SEED)
    try:
        yield chaos
    finally:
        chaos.neighbour.leave(at_once=True)


def answered(run: RunDirectory) -> dict[str, str]:
    """Return the kind of event by id of the commands that an event names."""
    kinds = ("command", "command_failed")
    return {event["id"]: event["kind"] for event in run.events() if event["kind"] in kinds}


def failed(run: RunDirectory) -> set[str]:
    return {identifier for identifier, kind in answered(run).items() if kind == "command_failed"}


def check_run(run: RunDirectory) -> None:
    """Check that no step and no question was lost, or trained twice."""
    steps = [metrics["step"] for metrics in run.metrics()]
    assert steps == list(range(1, len(steps) + 1))
    draws = [sample["draw"] for sample in run.samples()]
    assert len(draws) == len(set(draws)) * GROUP
    summary = run.summary()
    assert summary is not None, run.events()[-12:]
    counts = {name: count for name, count in summary["questions"].items() if isinstance(count, int)}
    assert counts.pop("drawn") == sum(counts.values()), counts


def test_what_was_promised_is_kept(chaos: Chaos, service: Service) -> None:
    users, segments = chaos.users, shared_memory()
    chaos.begin()
    service.wait(lambda: any(len(service.run(one).metrics()) > 1 for one in chaos.long), CALM_SECONDS)
    chaos.disturb(SECONDS)
    print(f"{len(chaos.done)} disturbances with seed {SEED}, {len(users.commands)} commands accepted")

    # The short jobs end, and the long ones run on with as many workers as they were last told.
    short = [one for one in users.jobs if one not in chaos.long]
    for one in short:
        service.until(one, "succeeded", seconds=CALM_SECONDS)
    for one in chaos.long:
        service.wait(lambda one=one: users.send(one, "resume"), CALM_SECONDS)
        record = service.until(one, "running", seconds=CALM_SECONDS)
        count = users.last_count(one, failed(service.run(one)))
        service.wait(lambda one=one, count=count: users.workers(one) == count, CALM_SECONDS)
        done = len(service.run(one).metrics())
        service.wait(lambda one=one, done=done: len(service.run(one).metrics()) > done + 2, CALM_SECONDS)
        # A driver that is lost with its cluster is not counted, but from the fourth without a checkpoint in between on.
        losses = [change["cause"] or "" for change in record["history"] if change["to_state"] == "recovering"]
        with_cluster = sum("lost with its Ray cluster" in cause for cause in losses)
        assert record["restarts"] <= chaos.drivers_killed.get(one, 0) + max(0, with_cluster - UNCOUNTED), record
    for one in chaos.long:
        service.cancel(one)
        service.until(one, "cancelled", seconds=120)

    assert users.unexpected == []
    for one, user in users.jobs.items():
        record = service.get(f"/jobs/{one}")
        assert (record["owner"], record["state"]) == (user, "cancelled" if one in chaos.long else "succeeded")
        check_run(service.run(one))
    lost = [sent for sent in users.commands if sent.id not in answered(service.run(sent.job))]
    assert lost == []
    for one in chaos.long:
        run = service.run(one)
        named = {id_ for event in run.events() if event["kind"] == "checkpoint" for id_ in event.get("commands", ())}
        wanted = {sent.id for sent in users.commands if (sent.job, sent.command) == (one, "checkpoint")}
        assert wanted <= named | failed(run)
    assert service.stop() == 0
    assert service.processes() == []
    assert not shared_memory() - segments
