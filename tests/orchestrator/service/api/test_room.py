"""Limits on what jobs use together hold for every way to get more: scaling, submitting, starting."""

import asyncio
from pathlib import Path

import pytest
from support.postgres import Postgres
from support.service import Service, check_problem, service

from orchestrator.job.spec import JobSpec
from orchestrator.schemas.job_state import JobState
from orchestrator.service.store.store import QueueCaps, QueueFullError, Store
from orchestrator.service.supervision.limits import Capacity, Limits
from orchestrator.service.supervision.schedule import schedule_of
from orchestrator.service.supervision.supervisor import Supervisor
from orchestrator.service.supervision.waiting import Situation

pytestmark = pytest.mark.anyio

GPUS = {"rollout": {"workers": 1, "gpus": 1.0}}
"""A job of two GPUs: one worker and one rank."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def scale(made: Service, job: str, count: int, token: str | None = None):
    return await made.client(token).patch(f"/v1/jobs/{job}/rollout-workers", json={"count": count})


async def test_scaling_counts_the_other_jobs_of_the_owner(tmp_path: Path) -> None:
    async with service(tmp_path, limits=Limits(running=9, gpus_per_user=8)) as made:
        first, _ = await made.running(**GPUS)
        second, _ = await made.running(**GPUS)
        other, _ = await made.running("bob", **GPUS)
        assert (await scale(made, first.id, 4)).status_code == 202
        problem = check_problem(await scale(made, second.id, 3), 409)
        assert problem["code"] == "limit_reached"
        assert problem["detail"] == (
            "the job would count for 4 GPUs; the other running jobs of local count for 5, and a user may have 8 "
            "(--max-gpus-per-user)"
        )
        assert (await made.store.get(second.id)).gpus == 2
        assert (await scale(made, second.id, 2)).status_code == 202
        # Other users have limits of their own.
        assert (await scale(made, other.id, 7, await made.token("bob"))).status_code == 202
        assert [entry.outcome[:20] for entry in await made.store.audit_log() if entry.outcome != "ok"] == [
            "the job would count "
        ]


async def test_scaling_counts_the_jobs_of_all(tmp_path: Path) -> None:
    async with service(tmp_path, limits=Limits(running=9, gpus=8)) as made:
        first, _ = await made.running(**GPUS)
        await made.running("bob", rollout={"workers": 4, "gpus": 1.0})
        problem = check_problem(await scale(made, first.id, 3), 409)
        assert "count for 5, and all may have 8 together (--max-gpus)" in problem["detail"]
        assert (await scale(made, first.id, 2)).status_code == 202


async def test_fewer_workers_are_always_allowed(tmp_path: Path) -> None:
    """The service was started again with a lower limit than its jobs use."""
    async with service(tmp_path, limits=Limits(running=9, gpus=4, gpus_per_user=3)) as made:
        job, run = await made.running(rollout={"workers": 7, "gpus": 1.0})
        run.append_event("scaled", before=0, target=7, reason="the job starts")
        await made.running("bob", rollout={"workers": 4, "gpus": 1.0})
        assert (await scale(made, job.id, 6)).status_code == 202
        assert (await made.store.get(job.id)).gpus == 7
        check_problem(await scale(made, job.id, 8), 409)
        assert (await made.store.get(job.id)).gpus == 7


async def test_a_scaling_that_is_not_sent_counts_for_nothing(tmp_path: Path) -> None:
    async with service(tmp_path) as made:
        job, run = await made.running(**GPUS)
        (run.path / "commands.jsonl").mkdir()
        assert (await scale(made, job.id, 5)).status_code in (409, 500)
        assert (await made.store.get(job.id)).gpus == 2


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_of_two_scalings_at_once_one_passes(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    if kind == "sqlite":
        urls = [f"sqlite:///{tmp_path / 'earshot.db'}"] * 2
    else:
        server: Postgres = request.getfixturevalue("postgres")
        urls = [server.new_database()] * 2
    spec = JobSpec.model_validate({"model": {"path": "m"}, "data": {"train": "builtin:synthetic"}, **GPUS})
    # Two processes have connections of their own.
    async with Store(urls[0], tmp_path) as one, Store(urls[1], tmp_path) as two:
        ids = [(await one.submit(spec, owner="ann"))[0].id for _ in range(2)]
        for job in ids:
            await one.transition(job, JobState.QUEUED, JobState.STARTING)

        def check(job, others) -> None:
            if sum(other.gpus for other in others) + 4 > 7:
                raise RuntimeError("full")

        for _ in range(5):
            results = await asyncio.gather(
                one.reserve_gpus(ids[0], 4, check), two.reserve_gpus(ids[1], 4, check), return_exceptions=True
            )
            assert sorted(map(str, results)) == ["2.0", "full"]
            for job in ids:
                await one.reserve_gpus(job, 2, check)


async def test_a_job_does_not_start_into_room_that_another_took(tmp_path: Path) -> None:
    async with service(tmp_path) as made:
        running, _ = await made.running(**GPUS)
        waiting = await made.job(**GPUS)
        limits = Limits(running=9, gpus=4)
        (chosen,) = (await schedule_of(made.store, limits, 4, preemption=False)).start
        assert chosen.id == waiting.id
        await made.store.reserve_gpus(running.id, 3, lambda job, others: None)

        def check(job, active) -> None:
            assert [other.gpus for other in active] == [3]
            raise RuntimeError("full")

        with pytest.raises(RuntimeError):
            await made.store.begin_attempt(chosen, check)
        assert (await made.store.get(waiting.id)).state is JobState.QUEUED


async def test_the_queue_is_bounded_for_each_user_and_for_all(tmp_path: Path) -> None:
    async with service(tmp_path) as made:
        made.store._caps = QueueCaps(3, 2)
        body = {"model": {"path": "builtin:tiny-qwen2-audio"}, "data": {"train": "builtin:synthetic"}}
        ann, bob = made.client(await made.token("ann")), made.client(await made.token("bob"))
        keyed = {"Idempotency-Key": "k"}
        assert (await ann.post("/v1/jobs", json=body, headers=keyed)).status_code == 201
        assert (await ann.post("/v1/jobs", json=body)).status_code == 201
        response = await ann.post("/v1/jobs", json=body)
        problem = check_problem(response, 429)
        assert problem["code"] == "queue_full" and int(response.headers["retry-after"]) > 0
        assert "ann has 2 queued jobs" in problem["detail"] and "--max-queued-per-user" in problem["detail"]
        # A repetition queues nothing.
        assert (await ann.post("/v1/jobs", json=body, headers=keyed)).status_code in (200, 201)
        assert (await bob.post("/v1/jobs", json=body)).status_code == 201
        problem = check_problem(await bob.post("/v1/jobs", json=body), 429)
        assert "3 jobs are queued" in problem["detail"] and "(--max-queued)" in problem["detail"]
        assert sum("queued" in entry.outcome for entry in await made.store.audit_log()) == 2
        # Room in the queue is for anyone, and a preempted job goes back in any case.
        job = (await ann.get("/v1/jobs")).json()["items"][0]["id"]
        await made.store.transition(job, JobState.QUEUED, JobState.STARTING)
        assert (await bob.post("/v1/jobs", json=body)).status_code == 201
        await made.store.transition(job, JobState.STARTING, JobState.QUEUED, "gives way")
        assert (await made.store.counts())[JobState.QUEUED] == 4


async def test_concurrent_submissions_do_not_pass_the_bound(database_url: str, tmp_path: Path) -> None:
    spec = JobSpec.model_validate({"model": {"path": "m"}, "data": {"train": "builtin:synthetic"}})
    async with Store(database_url, tmp_path, QueueCaps(5, 3)) as store:
        tries = [store.submit(spec, owner=owner) for owner in ("ann", "bob") for _ in range(6)]
        results = await asyncio.gather(*tries, return_exceptions=True)
        assert sum(isinstance(result, QueueFullError) for result in results) == 7
        assert (await store.counts())[JobState.QUEUED] == 5


async def test_a_retry_counts_as_a_queued_job(tmp_path: Path) -> None:
    async with service(tmp_path) as made:
        cancelled = await made.job()
        await made.store.request_cancel(cancelled.id, "x")
        await made.job()
        made.store._caps = QueueCaps(1)
        assert check_problem(await made.client().post(f"/v1/jobs/{cancelled.id}/retry"), 429)["code"] == "queue_full"
        assert (await made.store.get(cancelled.id)).state is JobState.CANCELLED


async def waits(made: Service, job: str, token: str | None = None):
    made.app.state.context.waiting._made = None
    made.app.state.context.jobs.forget(job)
    found = (await made.client(token).get(f"/v1/jobs/{job}")).json()["waiting"]
    return None if found is None else (found["position"], found["reason"])


async def test_a_job_says_why_it_waits(tmp_path: Path) -> None:
    async with service(tmp_path) as made:
        situation = {"limits": Limits(running=2), "cluster_gpus": 4.0, "preemption": False, "trouble": None}
        context = made.app.state.context
        context.waiting._situation = lambda: Situation(**situation)
        running, _ = await made.running("ann", **GPUS)
        waiting = await made.job("bob", **GPUS)
        assert await waits(made, running.id) is None
        assert await waits(made, waiting.id) == (1, "it is about to start")
        situation["trouble"] = "the cluster is unavailable"
        assert await waits(made, waiting.id) == (1, "the cluster is unavailable")
        situation["trouble"] = None
        situation["limits"] = Limits(running=1)
        assert await waits(made, waiting.id) == (1, "1 job is running, and at most 1 may (--max-running)")
        situation["limits"] = Limits(running=9)
        large, _ = await made.store.submit(
            JobSpec.model_validate(
                {
                    "model": {"path": "builtin:tiny-qwen2-audio"},
                    "data": {"train": "builtin:synthetic"},
                    "rollout": {"workers": 3, "gpus": 1.0},
                }
            ),
            owner="ann",
            priority=5,
        )
        assert await waits(made, large.id) == (1, "it needs 4 GPUs, and 2 of the 4 GPUs of the cluster are free")
        # Bob learns that a job is in front of his, and no more; Ann may know which.
        bob = await made.token("bob")
        reason = "a job in front of it needs 4 GPUs, and 2 of the 4 GPUs of the cluster are free"
        assert await waits(made, waiting.id, bob) == (2, reason)
        hers = await made.job("ann", **GPUS)
        assert await waits(made, hers.id) == (3, reason.replace("a job", f"job {large.id}", 1))
        listed = (await made.client().get("/v1/jobs")).json()["items"]
        assert {job["id"]: job["waiting"] and job["waiting"]["position"] for job in listed} == {
            running.id: None,
            large.id: 1,
            waiting.id: 2,
            hers.id: 3,
        }
        situation["limits"] = Limits(running=9, gpus=3)
        assert await waits(made, large.id) == (
            1,
            "it needs 4 GPUs, more than the 3 GPUs that jobs may have together (--max-gpus)",
        )
        situation["limits"] = Limits(running=9, running_per_user=1)
        assert await waits(made, hers.id) == (
            3,
            "1 job of ann is running, and at most 1 of a user may (--max-running-per-user)",
        )
        assert await waits(made, waiting.id) == (2, "it is about to start")
        situation["limits"] = Limits(running=9, gpus_per_user=3)
        assert (await waits(made, hers.id))[1] == (
            "it needs 2 GPUs, and the jobs of ann use 2 of the 3 GPUs that a user may have (--max-gpus-per-user)"
        )
        assert "it cannot start before the limit is raised" in (await waits(made, large.id))[1]
        situation["limits"], situation["preemption"] = Limits(running=9), True
        assert (await waits(made, large.id))[1].endswith("are free; 1 of lower priority is giving way")
        await made.store.request_cancel(large.id, "x")
        assert await waits(made, large.id) is None


async def test_a_preempted_job_does_not_name_the_job_of_another_user(tmp_path: Path) -> None:
    """See `test_supervisor.py` for the owner's own."""
    async with service(tmp_path) as made:
        job, _ = await made.running("ann")
        await made.store.submit(JobSpec.model_validate(job.spec), owner="bob", priority=3)

        class NoRunner:
            async def stop(self, submission_id: str) -> None: ...

        supervisor = Supervisor(made.store, NoRunner(), Limits(running=1), preemption=True)
        await supervisor._schedule(Capacity(1, 0))
        cause = (await made.store.get(job.id)).cause
        assert cause == "gives way to a job of priority 3"
