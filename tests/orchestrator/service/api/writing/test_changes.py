"""Changes to a job as a whole: its priority, a retry, its removal; a check of a job file without a submission."""

import json
from pathlib import Path

import pytest
from support.service import SPEC, check_problem, service

from orchestrator.run.mailbox import Mailbox
from orchestrator.schemas.job_state import JobState
from orchestrator.service.store.access import Role

pytestmark = pytest.mark.anyio


async def ended(made, state=JobState.FAILED, owner="local", **fields):
    job, run = await made.running(owner)
    return await made.store.transition(job.id, JobState.RUNNING, state, "for a reason", **fields), run


async def test_the_priority_of_a_job_changes_until_it_has_ended(tmp_path):
    async with service(tmp_path) as made:
        client = made.client()
        waiting = await made.job()
        changed = await client.patch(f"/v1/jobs/{waiting.id}", json={"priority": 10})
        assert (changed.status_code, changed.json()["priority"], changed.json()["state"]) == (200, 10, "queued")
        running, _ = await made.running()
        assert (await client.patch(f"/v1/jobs/{running.id}", json={"priority": -100})).json()["priority"] == -100
        assert (await client.get(f"/v1/jobs/{running.id}")).json()["priority"] == -100
        done, _ = await ended(made, JobState.SUCCEEDED)
        says = check_problem(await client.patch(f"/v1/jobs/{done.id}", json={"priority": 1}), 409)
        assert says["code"] == "state_conflict"
        assert says["detail"] == f"job {done.id} has already succeeded; another priority needs a job that has not ended"
        for body in ({}, {"priority": 101}, {"priority": True}, {"priority": "1"}, {"priority": 1, "steps": 3}, [1]):
            check_problem(await client.patch(f"/v1/jobs/{waiting.id}", json=body), 422)
        assert (await made.store.get(waiting.id)).priority == 10
        entry = (await made.store.audit_log())[-2]
        assert (entry.action, entry.target, entry.detail) == (
            "job.priority",
            running.id,
            {"priority": -100, "before": 0},
        )


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
async def test_a_retried_job_is_queued_again_and_continues_in_its_run_directory(tmp_path, state):
    async with service(tmp_path) as made:
        client = made.client()
        job, run = await made.running()
        await made.store.update(job.id, restarts=3, submission_id=f"{job.id}-1")
        await made.store.request_cancel(job.id, "cancelled by local")
        await made.store.transition(job.id, JobState.RUNNING, state, "for a reason")
        again = await client.post(f"/v1/jobs/{job.id}/retry")
        assert again.status_code == 200, again.text
        view = again.json()
        assert (view["id"], view["state"], view["cause"]) == (job.id, "queued", "retried by local")
        assert (view["restarts"], view["attempt"], view["finished_at"], view["cancelling"]) == (0, 1, None, False)
        record = await made.store.get(job.id)
        assert (record.run_dir, record.submission_id, record.cancel_requested_at) == (str(run.path), None, None)
        # It is no longer one of the jobs that retention removes, and starts like any other.
        assert record.finished_at is None
        started = await made.store.begin_attempt(record)
        assert (started.state, started.submission_id) == (JobState.STARTING, f"{job.id}-2")


async def test_a_job_that_was_paused_runs_after_a_retry(tmp_path):
    async with service(tmp_path) as made:
        job, run = await ended(made, JobState.CANCELLED)
        mailbox = Mailbox(run)
        assert (await made.client().post(f"/v1/jobs/{job.id}/retry")).status_code == 200
        assert mailbox.take() == []
        await made.client().post(f"/v1/jobs/{job.id}/cancel")
        run.append_event("command", id="1", command="pause", count=None, by="local")
        assert (await made.client().post(f"/v1/jobs/{job.id}/retry")).status_code == 200
        assert [(command.kind, command.by) for command in mailbox.take()] == [("resume", "local")]


async def test_a_job_is_retried_only_where_that_makes_sense(tmp_path):
    async with service(tmp_path) as made:
        client = made.client()
        done, _ = await ended(made, JobState.SUCCEEDED)
        says = check_problem(await client.post(f"/v1/jobs/{done.id}/retry"), 409)["detail"]
        assert says == f"job {done.id} has already succeeded; retry needs a failed or cancelled job"
        running, _ = await made.running()
        says = check_problem(await client.post(f"/v1/jobs/{running.id}/retry"), 409)["detail"]
        assert says == f"job {running.id} is running; retry needs a failed or cancelled job"
        # It is admitted again: what it names may no longer be allowed, or there.
        (made.data / "gone").mkdir()
        job = await made.job(data={"train": "builtin:synthetic", "audio_root": str(made.data / "gone")})
        await client.post(f"/v1/jobs/{job.id}/cancel")
        (made.data / "gone").rmdir()
        refused = check_problem(await client.post(f"/v1/jobs/{job.id}/retry"), 422)
        assert (refused["code"], "data.audio_root" in refused["detail"]) == ("invalid_job", True)
        assert (await made.store.get(job.id)).state is JobState.CANCELLED
        other, _ = await ended(made)
        eve = made.client(await made.token("eve"))
        check_problem(await eve.post(f"/v1/jobs/{other.id}/retry"), 404)
        own, _ = await ended(made, owner="vic")
        vic = made.client(await made.token("vic", Role.VIEWER))
        check_problem(await vic.post(f"/v1/jobs/{own.id}/retry"), 403)
        assert (await made.store.get(own.id)).state is JobState.FAILED


async def test_messages_say_what_the_job_is_and_what_would_be_needed(tmp_path):
    async with service(tmp_path) as made:
        client = made.client()
        done, _ = await ended(made, JobState.SUCCEEDED)
        says = check_problem(await client.post(f"/v1/jobs/{done.id}/resume"), 409)["detail"]
        assert says == f"job {done.id} has already succeeded; resume needs a running or paused job"
        stopping, _ = await made.running()
        await made.store.request_cancel(stopping.id, "cancelled by local")
        await made.store.transition(stopping.id, JobState.RUNNING, JobState.RECOVERING)
        says = check_problem(await client.post(f"/v1/jobs/{stopping.id}/pause"), 409)["detail"]
        assert says == f"job {stopping.id} is being cancelled; pause needs a running job"
        says = check_problem(await client.post(f"/v1/jobs/{done.id}/cancel"), 409)["detail"]
        assert says == f"job {done.id} has already succeeded; cancel needs a job that has not ended"


async def test_an_ended_job_is_removed_with_its_files(tmp_path):
    async with service(tmp_path) as made:
        client = made.client()
        running, _ = await made.running()
        says = check_problem(await client.delete(f"/v1/jobs/{running.id}"), 409)["detail"]
        assert says == f"job {running.id} is running; delete needs a job that has ended: cancel it first"
        job, run = await ended(made, JobState.CANCELLED)
        eve, vic = made.client(await made.token("eve")), made.client(await made.token("local", Role.VIEWER))
        check_problem(await eve.delete(f"/v1/jobs/{job.id}"), 404)
        check_problem(await vic.delete(f"/v1/jobs/{job.id}"), 403)
        assert run.path.is_dir()
        gone = await client.delete(f"/v1/jobs/{job.id}", headers={"Idempotency-Key": "d"})
        assert (gone.status_code, gone.content) == (204, b"")
        assert not run.path.exists()
        check_problem(await client.get(f"/v1/jobs/{job.id}"), 404)
        check_problem(await client.delete(f"/v1/jobs/{job.id}"), 404)
        again = await client.delete(f"/v1/jobs/{job.id}", headers={"Idempotency-Key": "d"})
        assert (again.status_code, again.headers["idempotent-replayed"]) == (204, "true")
        removals = [entry for entry in await made.store.audit_log() if entry.action == "job.delete"]
        assert [entry.outcome for entry in removals if entry.target == job.id][::-1][-1] == "ok"


async def test_a_job_whose_files_are_needed_is_kept_and_other_users_jobs_are_not_named(tmp_path):
    async with service(tmp_path, data_dir=tmp_path, roots=(tmp_path,)) as made:
        job, run = await ended(made, JobState.SUCCEEDED, owner="ann")
        clips = run.path / "clips"
        clips.mkdir()
        ann, admin = made.client(await made.token("ann")), made.client()
        spec = {**SPEC, "data": {"train": "builtin:synthetic", "audio_root": str(clips)}}
        users = []
        for client in (admin, ann):
            answer = await client.post("/v1/jobs", json=spec)
            assert answer.status_code == 201, answer.text
            users.append(answer.json()["id"])
        refused = check_problem(await ann.delete(f"/v1/jobs/{job.id}"), 409)
        assert refused["code"] == "job_in_use"
        assert users[1] in refused["detail"]
        assert users[0] not in refused["detail"]
        assert users[0] in check_problem(await admin.delete(f"/v1/jobs/{job.id}"), 409)["detail"]
        assert clips.is_dir()
        await ann.post(f"/v1/jobs/{users[1]}/cancel")
        assert "jobs of other users" in check_problem(await ann.delete(f"/v1/jobs/{job.id}"), 409)["detail"]
        await admin.post(f"/v1/jobs/{users[0]}/cancel")
        assert (await ann.delete(f"/v1/jobs/{job.id}")).status_code == 204


async def test_a_job_file_is_checked_without_a_submission(tmp_path):
    async with service(tmp_path) as made:
        client = made.client()
        found = await client.post("/v1/jobs:validate", json={**SPEC, "rollout": {"workers": 3}})
        assert found.status_code == 200, found.text
        assert found.json()["spec"]["rollout"]["group_size"] == 8
        assert (found.json()["gpus"], found.json()["cpus"]) == (0, 5)
        for change, code, says in (
            ({"stepz": 3}, "invalid_job", "did you mean 'steps'"),
            ({"data": {"train": "/etc/passwd"}}, "invalid_job", "data.train"),
        ):
            refused = await client.post("/v1/jobs:validate", json={**SPEC, **change})
            problem = check_problem(refused, 422)
            assert (problem["code"], says in problem["detail"]) == (code, True)
            assert json.loads((await client.post("/v1/jobs", json={**SPEC, **change})).text) == problem
        viewer = made.client(await made.token("vic", Role.VIEWER))
        check_problem(await viewer.post("/v1/jobs:validate", json=SPEC), 403)
        assert (await client.get("/v1/jobs")).json()["items"] == []
        assert not list(Path(made.store.runs).glob("*"))
