"""Jobs whose Ray dies under them: a loss through the cluster is not counted as a restart, unless they get nowhere."""

import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from unittest.mock import Mock

import pytest
from support.fake_driver import FolderRunner
from support.supervised import Service, runner, serve

from orchestrator.cluster.inventory import ClusterUnavailableError
from orchestrator.driver import session
from orchestrator.driver.session import ClusterUnreachableError, ray_session
from orchestrator.job.spec import JobSpec
from orchestrator.run import exit_codes
from orchestrator.run.directory import RunDirectory
from orchestrator.run.history import history_of
from orchestrator.schemas.job_state import JobState
from orchestrator.service.supervision import endings
from orchestrator.service.supervision.runner import Driver, DriverState

__all__ = ["runner", "serve"]


@pytest.fixture
def lose(runner: FolderRunner, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that kills a driver and has the cluster forget it, as a new Ray has."""
    lost, status = set[str](), runner.status

    async def status_of_known(submission_id: str) -> Driver:
        return Driver(DriverState.UNKNOWN) if submission_id in lost else await status(submission_id)

    def kill(submission_id: str) -> None:
        os.kill(runner.pid(submission_id), signal.SIGKILL)
        lost.add(submission_id)

    monkeypatch.setattr(runner, "status", status_of_known)
    return kill


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause between drivers."""
    monkeypatch.setattr(endings, "back_off", lambda failures: 0.0)


def test_a_loss_through_the_cluster_is_not_counted(serve, runner, lose) -> None:
    async def body(service: Service) -> None:
        # Without a single restart left.
        job = await service.submit(max_restarts=0)
        await service.until(job, JobState.RUNNING)
        lose(f"{job}-1")
        record = await service.until(job, JobState.RECOVERING)
        assert record.cause == "the driver was lost with its Ray cluster; this is not counted as a restart"
        record = await service.until(job, JobState.RUNNING)
        assert (record.attempt, record.restarts) == (2, 0)
        runner.finish()
        await service.until(job, JobState.SUCCEEDED)

    serve(body)


def test_a_job_that_gets_nowhere_is_not_started_without_end(serve, runner, lose, at_once) -> None:
    async def body(service: Service) -> None:
        job = await service.submit(max_restarts=1)
        restarts = []
        for attempt in range(1, 6):
            await service.until(job, JobState.RUNNING)
            if attempt == 3:
                # It gets somewhere: what was lost before does not matter any more.
                run = RunDirectory((await service.store.get(job)).run_dir)
                run.append_event("checkpoint", step=4, path="nowhere")
            lose(f"{job}-{attempt}")
            await service.until(job, JobState.RECOVERING)
            restarts.append((await service.store.get(job)).restarts)
        for attempt in (6, 7):
            await service.until(job, JobState.RUNNING)
            lose(f"{job}-{attempt}")
            record = await service.until(job, JobState.RECOVERING, JobState.FAILED)
            restarts.append(record.restarts)
        assert restarts == [0, 0, 0, 0, 0, 0, 1]
        await service.until(job, JobState.RUNNING)
        lose(f"{job}-8")
        record = await service.until(job, JobState.FAILED)
        assert record.cause.startswith("the driver was lost with its Ray cluster; all 1 restarts are used up")

    serve(body)


def test_a_driver_that_could_not_begin_is_not_counted(serve, runner, at_once) -> None:
    async def body(service: Service) -> None:
        job = await service.submit(max_restarts=0)
        runner.finish(exit_codes.NOT_BEGUN, job)
        record = await service.until(job, JobState.RECOVERING)
        assert record.cause.startswith("the driver could not begin")
        runner.finish(0, job)
        assert (await service.until(job, JobState.SUCCEEDED)).restarts == 0

    serve(body)


def test_a_driver_that_ray_could_not_start_is_not_counted(serve, runner, at_once) -> None:
    """Ray reports no exit code: the process around the driver was not started, or died with its node."""

    async def body(service: Service) -> None:
        job = await service.submit(max_restarts=0)
        started = await service.store.begin_attempt(await service.store.get(job))
        died = Driver(DriverState.ENDED, None, "Job supervisor actor died unexpectedly")
        now = datetime.now(UTC)
        for attempt in range(1, 20):
            ending = endings.ending_of(started, died, history_of([]), "", now)
            assert (ending.to, ending.fields.get("restarts")) == (JobState.RECOVERING, None), attempt
        runner.finish()

    serve(body)


def test_the_pauses_between_lost_drivers_grow(serve, runner) -> None:
    async def body(service: Service) -> None:
        job = await service.submit(max_restarts=0)
        started = await service.store.begin_attempt(await service.store.get(job))
        now, lost, events, pauses = datetime.now(UTC), Driver(DriverState.UNKNOWN), [], []
        for attempt in range(1, 4):
            events.append({"kind": "attempt", "submission_id": f"{job}-{attempt}", "pid": 1})
            ending = endings.ending_of(started, lost, history_of(events), "", now)
            pauses.append((ending.fields["not_before"] - now).total_seconds())
        assert pauses == [1, 2, 4]
        runner.finish()

    serve(body)


@pytest.mark.parametrize(
    "error", [RuntimeError("No node info found"), ConnectionError("away"), ValueError("no such address")]
)
def test_a_cluster_that_is_not_reached_has_an_error_of_its_own(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def init(**_: object) -> None:
        raise error

    ended = Mock()
    monkeypatch.setattr(session.ray, "init", init)
    # The Ray of this process may be one that other tests use.
    monkeypatch.setattr(session.ray, "shutdown", ended)
    spec = {"model": {"path": "x"}, "data": {"train": "x"}, "steps": 1, "cluster": {"address": "auto"}}
    reached = ray_session(JobSpec.model_validate(spec))
    with pytest.raises(ClusterUnreachableError, match=rf"'auto' was not reached: .*{error}"), reached:
        raise AssertionError("it was reached")
    ended.assert_called_once_with()


def test_the_service_says_why_its_cluster_is_away(serve, runner, caplog: pytest.LogCaptureFixture) -> None:
    async def body(service: Service) -> None:
        service.loop._record_outcome("cluster", ClusterUnavailableError("Ray: /secret/path", "Ray did not start"))
        assert service.loop.trouble == "the cluster is unavailable: Ray did not start"
        service.loop._record_outcome("cluster", ClusterUnavailableError("Ray: /secret/path"))
        assert service.loop.trouble == "the cluster is unavailable: it does not answer"
        service.loop._record_outcome(None)
        assert service.loop.trouble is None

    serve(body)
    assert [record.message.count("/secret/path") for record in caplog.records if "unavailable" in record.message] == [1]
