"""The scheduling decision, on jobs that exist only as records."""

from datetime import UTC, datetime, timedelta
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.schemas.job_state import ACTIVE, JobState
from orchestrator.service.store.records import JobRecord, QueuedJob
from orchestrator.service.supervision.limits import Limits
from orchestrator.service.supervision.schedule import JobSchedule

NOW = datetime(2026, 1, 1, tzinfo=UTC)
_numbers = count()


def job(state="queued", *, priority=0, owner="ann", gpus=0.0, preempted=False) -> JobRecord:
    number = next(_numbers)
    running = JobState(state) in ACTIVE
    return JobRecord(
        id=f"job{number}",
        name="job",
        owner=owner,
        state=JobState(state),
        priority=priority,
        spec={},
        gpus=gpus,
        created_at=NOW,
        updated_at=NOW,
        started_at=NOW + timedelta(seconds=number) if running else None,
        finished_at=None,
        attempt=int(running),
        restarts=0,
        max_restarts=3,
        cause=None,
        run_dir="/nowhere",
        submission_id="x" if running else None,
        not_before=None,
        cancel_requested_at=None,
        preempt_requested_at=NOW if preempted else None,
    )


def decide(jobs, limits, gpus, *, preemption):
    """Offer the queue in its order; return the schedule with the jobs that were given."""
    schedule = JobSchedule([j for j in jobs if j.state in ACTIVE], limits, gpus, preemption=preemption)
    for waiting in sorted((j for j in jobs if j.state is JobState.QUEUED), key=lambda j: -j.priority):
        if not schedule.offer(QueuedJob(0, waiting.id, waiting.owner, waiting.priority, waiting.gpus, waiting.attempt)):
            break
    given = {j.id: j for j in jobs}
    schedule.start = tuple(given[j.id] for j in schedule.start)
    schedule.preempt = tuple((victim, given[winner.id]) for victim, winner in schedule.preempt)
    return schedule


def started(jobs, limits, gpus=0.0):
    return list(decide(jobs, limits, gpus, preemption=False).start)


def test_jobs_start_by_priority_then_by_submission() -> None:
    low, first, second, high = job(priority=-1), job(), job(), job(priority=5)
    assert started([low, first, second, high], Limits(running=3)) == [high, first, second]


def test_every_state_with_a_driver_counts_as_running() -> None:
    for state in ACTIVE:
        assert started([job(state), job()], Limits(running=1)) == []


def test_a_job_that_waits_for_gpus_is_not_overtaken() -> None:
    running, large, small = job("running", gpus=3), job(gpus=4), job(gpus=1)
    assert started([running, large, small], Limits(running=9), gpus=4) == []
    assert started([large, small], Limits(running=9), gpus=4) == [large]
    assert started([job(gpus=1), large], Limits(running=9, gpus=4), gpus=8)[0].gpus == 1


def test_a_user_at_the_limit_is_overtaken_by_others() -> None:
    limits = Limits(running=9, running_per_user=1, gpus_per_user=2)
    mine, hers = job(owner="ann"), job(owner="bob")
    assert started([job("running", owner="ann"), mine, hers], limits) == [hers]
    greedy, modest = job(owner="ann", gpus=3), job(owner="ann", gpus=2)
    assert started([greedy, modest], limits, gpus=8) == [modest]


def test_the_lowest_and_latest_is_preempted_and_no_more_than_needed() -> None:
    old, new, other = job("running"), job("running"), job("running", priority=1)
    high = job(priority=2)
    decision = decide([old, new, other, high], Limits(running=3), 0, preemption=True)
    assert decision.start == ()
    assert decision.preempt == ((new, high),)
    assert decide([old, new, other, high], Limits(running=3), 0, preemption=False).preempt == ()
    assert decide([old, new, other, job()], Limits(running=3), 0, preemption=True).preempt == ()


def test_running_preemptions_are_counted() -> None:
    leaving, staying, high = job("running", preempted=True), job("running"), job(priority=1)
    assert decide([leaving, staying, high], Limits(running=2), 0, preemption=True).preempt == ()


def test_jobs_with_gpus_are_preempted_where_gpus_are_missing() -> None:
    none, one, two = job("running"), job("running", gpus=1), job("running", gpus=2)
    high = job(priority=1, gpus=2)
    assert decide([one, two, none, high], Limits(running=9), 3, preemption=True).preempt == ((two, high),)
    # Nothing is preempted where that would not be enough.
    above = job("running", priority=1, gpus=2)
    assert decide([one, above, job(priority=1, gpus=3)], Limits(running=9), 3, preemption=True).preempt == ()


_jobs = st.lists(
    st.builds(
        job,
        st.sampled_from(["queued", "queued", "running", "paused", "recovering", "starting"]),
        priority=st.integers(-2, 2),
        owner=st.sampled_from(["ann", "bob", "cy"]),
        gpus=st.sampled_from([0.0, 0.5, 1.0, 4.0]),
    ),
    max_size=12,
)
_some = st.sampled_from([1, 2, 5, float("inf")])


@given(jobs=_jobs, limits=st.builds(Limits, running=_some, running_per_user=_some, gpus=_some, gpus_per_user=_some))
def test_started_jobs_fit_and_are_in_order(jobs, limits) -> None:
    decision = decide(jobs, limits, 6, preemption=True)
    before = [j for j in jobs if j.state in ACTIVE]
    for i, chosen in enumerate(decision.start):
        running = [*before, *decision.start[: i + 1]]
        own = [j for j in running if j.owner == chosen.owner]
        assert len(running) <= limits.running
        assert len(own) <= limits.running_per_user
        assert sum(j.gpus for j in running) <= min(limits.gpus, 6)
        assert sum(j.gpus for j in own) <= limits.gpus_per_user
    # A job not started has a lower priority, was submitted later, or is at its owner's limits.
    order = sorted((j for j in jobs if j.state is JobState.QUEUED), key=lambda j: -j.priority)
    assert [j for j in order if j in decision.start] == list(decision.start)
    for victim, winner in decision.preempt:
        assert victim.priority < winner.priority
        assert victim in before
        assert winner not in decision.start
