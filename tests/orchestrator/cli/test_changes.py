"""Commands that change a job as a whole, and those about the service and its users, against a real service."""

import json
import re

import pytest
import yaml
from support.service import SPEC, Threaded
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.cli.service import changes
from orchestrator.cli.service.tables import waiting_text
from orchestrator.client import JobView
from orchestrator.schemas.job_state import JobState
from orchestrator.service.store.access import Role


@pytest.fixture(scope="module")
def threaded(tmp_path_factory):
    with Threaded(tmp_path_factory.mktemp("changes")) as running:
        yield running


@pytest.fixture
def earshot(threaded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EARSHOT_URL", threaded.url)
    monkeypatch.setenv("EARSHOT_TOKEN", "")
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(SPEC))

    def call(*words, code=0, answer=None):
        done = CliRunner().invoke(app, [*map(str, words)], prog_name="earshot", input=answer)
        assert done.exit_code == code, (done.stdout, done.stderr, done.exception)
        return json.loads(done.stdout) if "--json" in words and not code else done.stdout + done.stderr

    return call


def failed(threaded):
    """Return a job that has failed."""
    job, _ = threaded.do(lambda made: made.running())
    threaded.do(lambda made: made.store.transition(job.id, JobState.RUNNING, JobState.FAILED, cause="it broke"))
    return job.id


def state_of(threaded, job_id):
    return threaded.do(lambda made: made.store.get(job_id)).state


def test_a_job_that_waits_says_why(earshot, threaded):
    place = r"place \d+ in the queue: \S.*"
    made = earshot("submit", "job.yaml")
    found = re.fullmatch(rf"job (\w+) is queued, {place}; follow it with: earshot watch \1\n", made)
    assert found
    assert re.search(rf"waits +{place}", earshot("show", found[1]))
    assert re.search(r"^job +name +state +place +step", earshot("jobs"))
    assert earshot("show", found[1], "--json")["waiting"]["position"] >= 1


def test_an_older_service_does_not_say_why(earshot, threaded):
    job = earshot("submit", "job.yaml", "--json")
    del job["waiting"]
    assert waiting_text(JobView.model_validate(job)) == ""


def test_retry(earshot, threaded):
    job = failed(threaded)
    assert earshot("retry", job).startswith(f"job {job} is queued")
    assert state_of(threaded, job) is JobState.QUEUED
    assert f"job {job}" in earshot("retry", job, code=2)
    again = failed(threaded)
    assert earshot("retry", again, "--json")["state"] == "queued"


def test_priority(earshot, threaded):
    job = threaded.do(lambda made: made.job()).id
    assert earshot("priority", job, -7).startswith(f"job {job} has the priority -7 and is queued")
    assert threaded.do(lambda made: made.store.get(job)).priority == -7
    assert earshot("priority", job, 9, "--json")["priority"] == 9


def test_delete_needs_yes_without_a_terminal(earshot, threaded):
    jobs = [failed(threaded) for _ in range(3)]
    assert "add --yes to do it without a question" in earshot("delete", jobs[0], code=2)
    assert state_of(threaded, jobs[0]) is JobState.FAILED
    assert (
        earshot("delete", jobs[0], jobs[1], jobs[0], "--yes") == f"job {jobs[0]} is deleted\njob {jobs[1]} is deleted\n"
    )
    assert "there is no job" in earshot("show", jobs[0], code=2)
    assert earshot("delete", jobs[2], "--yes", "--json") == {"deleted": [jobs[2]]}
    assert "there is no job" in earshot("delete", jobs[2], "--yes", code=2)
    running, _ = threaded.do(lambda made: made.running())
    assert running.id in earshot("delete", running.id, "--yes", code=2)


def test_the_question_of_delete(earshot, threaded, monkeypatch):
    job = failed(threaded)

    class Terminal:
        """A terminal in place of the standard input, which the runner replaces."""

        def isatty(self):
            return True

    class System:
        stdin = Terminal()

    monkeypatch.setattr(changes, "sys", System)
    assert f"Delete job {job} and its run directory? [y/N]" in earshot("delete", job, code=1, answer="n\n")
    assert state_of(threaded, job) is JobState.FAILED
    assert f"job {job} is deleted" in earshot("delete", job, answer="y\n")


def test_a_dry_run_submits_nothing(earshot, threaded, tmp_path):
    before = len(earshot("jobs", "--json", "--limit", 500)["items"])
    assert earshot("submit", "job.yaml", "--dry-run") == (
        "the service would accept this job; it needs GPUs: 0, CPUs: 3\n"
    )
    assert earshot("submit", "job.yaml", "--dry-run", "--json")["spec"]["steps"] == 20
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({**SPEC, "model": {"path": "/etc"}}))
    assert "not under the folders" in earshot("submit", "job.yaml", "--dry-run", code=2)
    assert len(earshot("jobs", "--json", "--limit", 500)["items"]) == before


def test_who_asks_what_is_allowed_and_what_was_done(earshot, threaded, monkeypatch):
    job = threaded.do(lambda made: made.job("ada")).id
    monkeypatch.setenv("EARSHOT_TOKEN", threaded.do(lambda made: made.token("ada", Role.VIEWER)))
    shown = " ".join(earshot("whoami").split())
    assert "user ada role viewer token" in shown
    assert f"jobs 1 queued service {threaded.url} (Earshot " in shown
    assert earshot("whoami", "--json")["owner"] == "ada"
    assert "with that role, which an admin" in earshot("cancel", job, code=2)
    assert "role submitter" in earshot("cancel", job, code=2)
    shown = earshot("audit", "--days", 1, "--limit", 1)
    assert job in shown
    assert "job.cancel" in shown
    assert "There are more: earshot audit --cursor " in shown
    assert {entry["actor"] for entry in earshot("audit", "--json")["items"]} == {"ada"}
    assert earshot("audit", "--user", "eve") == "There are no entries.\n"
    shown = " ".join(earshot("limits").split())
    assert "jobs of all users 2 running" in shown
    assert "MiB as JSON" in shown
    assert "cache folders none" in shown and "storage none" in shown
    assert earshot("limits", "--json")["jobs"]["running"] == 2
