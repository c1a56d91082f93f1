"""The role of Prometheus: the metrics of all jobs, and nothing else."""

import pytest
from support.service import SPEC, check_problem, service
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.service.store.access import Role
from orchestrator.service.store.database import sqlite_url
from orchestrator.service.store.store import Store

pytestmark = pytest.mark.anyio


async def test_a_monitor_reads_the_metrics_of_all_jobs_and_nothing_else(tmp_path):
    async with service(tmp_path, local=False) as made:
        job, _ = await made.running("ada")
        monitor = made.client(await made.token("prometheus", Role.MONITOR))
        metrics = await monitor.get("/metrics")
        assert metrics.status_code == 200 and f'earshot_job_step{{job="{job.id}"' in metrics.text
        assert {(await monitor.get(path)).status_code for path in ("/healthz", "/readyz")} == {200}
        routes = [(route.path, sorted(route.methods)) for route in made.app.routes if route.path.startswith("/v1")]
        assert len(routes) > 10
        for path, methods in routes:
            for method in methods:
                url = path.replace("{job_id}", job.id).replace("{sample_id}", "1-0-0")
                answer = await monitor.request(method, url, json=None if method in {"GET", "HEAD"} else SPEC)
                assert answer.status_code == 403, (method, path, answer.text)
                if method != "HEAD":
                    assert check_problem(answer, 403)["code"] == "role_required"


async def test_a_monitor_has_no_jobs_of_its_own(tmp_path):
    async with service(tmp_path, local=False) as made:
        job, _ = await made.running("prometheus")
        monitor = made.client(await made.token("prometheus", Role.MONITOR))
        assert (await monitor.get(f"/v1/jobs/{job.id}")).status_code == 403


def test_the_command_creates_such_a_token(tmp_path):
    words = ["token", "create", "prometheus", "--role", "monitor", "--data-dir", str(tmp_path)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output


async def test_the_store_keeps_the_role(tmp_path):
    async with Store(sqlite_url(tmp_path / "earshot.db"), tmp_path) as store:
        await store.create_token(name="p", owner="p", role=Role.MONITOR, token_hash="h")
        found = await store.find_token("h")
        assert found is not None and found.role is Role.MONITOR
