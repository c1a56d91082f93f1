"""The installed command against a real service: every command, its exit codes and its JSON."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from support.service import SPEC, Threaded, sample

from orchestrator.run.mailbox import Mailbox
from orchestrator.schemas.job_state import JobState
from orchestrator.service.store.database import sqlite_url

EARSHOT = Path(sys.executable).parent / "earshot"


@pytest.fixture(scope="module")
def threaded(tmp_path_factory):
    with Threaded(tmp_path_factory.mktemp("cli"), heartbeat_seconds=0.2) as running:
        yield running


@pytest.fixture
def earshot(threaded, tmp_path):
    def call(*arguments, code=0, **environment):
        done = subprocess.run(
            [EARSHOT, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=tmp_path,
            check=False,
            env={**os.environ, "EARSHOT_URL": threaded.url, "EARSHOT_TOKEN": "", "COLUMNS": "100", **environment},
        )
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        if code == 2:
            assert done.stdout == ""
            assert done.stderr.startswith("earshot: ")
            assert len(done.stderr.splitlines()) == 1
        if "--json" in arguments and code == 0:
            assert done.stderr == ""
            return json.loads(done.stdout)
        return done.stdout + done.stderr

    return call


@pytest.fixture
def job_file(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(SPEC))
    return path


def test_a_job_is_submitted_and_shown_and_cancelled(earshot, job_file):
    text = earshot("submit", job_file, "--priority", 3)
    identifier = text.split()[1]
    assert f"earshot watch {identifier}" in text
    again = [earshot("submit", job_file, "--key", "mine", "--json")["id"] for _ in range(2)]
    assert again[0] == again[1] != identifier
    listed = earshot("jobs", "--json")["items"]
    assert {identifier, again[0]} <= {job["id"] for job in listed}
    assert identifier in earshot("jobs", "--state", "queued")
    shown = earshot("show", identifier, "--json")
    assert (shown["state"], shown["priority"], shown["history"][0]["to_state"]) == ("queued", 3, "queued")
    assert "queued" in earshot("show", identifier)
    assert "0/1" in earshot("jobs")
    assert earshot("cancel", identifier, "--json")["state"] == "cancelled"
    assert "Command sent: cancel" in earshot("cancel", again[0])
    ended = earshot("watch", identifier, code=1)
    assert "cancelled: cancelled by local" in ended


def test_telemetry_and_commands_of_a_running_job(earshot, threaded):
    job, run = threaded.do(lambda made: made.running())
    run.append_metrics({"step": 1, "reward/mean": 0.25, "kl/ref": None})
    run.append_metrics({"step": 2, "reward/mean": 0.75})
    run.append_samples([sample("/clip.wav")])
    (run.path / "driver.log").write_text("one\n\x1b[31mtwo\x1b[0m\n")
    assert earshot("scale", job.id, 3, "--json")["count"] == 3
    for what in ("pause", "resume", "checkpoint"):
        assert earshot(what, job.id, "--json")["command"] == what
    assert [command.kind for command in Mailbox(run).take()] == ["scale", "pause", "resume", "checkpoint"]
    assert "rollout-1" in earshot("workers", job.id)
    assert earshot("workers", job.id, "--json")["target"] == 2
    assert "0.75" in earshot("metrics", job.id)
    names = earshot("metrics", job.id, "--names", "reward/mean", "--since-step", 1, "--json")
    assert names["items"] == [{"step": 2, "reward/mean": 0.75}]
    assert "What is heard?" in earshot("samples", job.id)
    assert earshot("samples", job.id, "--step", 9, "--json")["items"] == []
    assert earshot("logs", job.id) == "one\ntwo\n"
    assert [line["text"] for line in earshot("logs", job.id, "--tail", 1, "--json")["items"]] == ["two"]
    threading.Timer(
        1.5, lambda: threaded.do(lambda made: made.store.transition(job.id, JobState.RUNNING, JobState.SUCCEEDED))
    ).start()
    assert earshot("logs", job.id, "--follow", "--tail", 1) == "two\n"
    watched = earshot("watch", job.id)
    assert "step 2/20  reward 0.750" in watched
    assert "worker_started worker=rollout-1" in watched
    assert watched.endswith("succeeded\n") or "succeeded" in watched
    assert earshot("watch", job.id, "--json")["state"] == "succeeded"


def test_bad_input_is_one_line_and_exit_code_2(earshot, job_file, threaded):
    assert "there is no job 'none'" in earshot("show", "none", code=2)
    assert "is queued" in earshot("pause", earshot("submit", job_file, "--json")["id"], code=2)
    assert "run directory" in earshot("pause", "./nowhere", code=2)
    assert "no such" in earshot("submit", "missing.yaml", code=2).lower()
    job_file.write_text(yaml.safe_dump({**SPEC, "stepz": 1}))
    assert "did you mean 'steps'" in earshot("submit", job_file, code=2)
    job_file.write_text(yaml.safe_dump({**SPEC, "model": {"path": "/etc"}}))
    assert "not under the folders" in earshot("submit", job_file, code=2)
    assert "not the URL" in earshot("jobs", "--url", "nonsense", code=2)
    assert "not valid" in earshot("jobs", code=2, EARSHOT_TOKEN="earshot_wrong")
    assert "one document" in earshot("logs", "x", "--follow", "--json", code=2)


def test_an_unreachable_service(earshot):
    started = time.monotonic()
    output = earshot("jobs", code=1, EARSHOT_URL="http://127.0.0.1:9")
    assert "no service answers at http://127.0.0.1:9" in output
    assert "earshot serve" in output
    assert time.monotonic() - started < 30


def test_tokens_are_made_listed_used_and_revoked(earshot, threaded, tmp_path):
    database = {"EARSHOT_DATABASE_URL": sqlite_url(threaded.home / "earshot.db")}
    made = earshot("token", "create", "ada", "--role", "submitter", "--days", 1, "--json", **database)
    secret = made["token"]
    assert secret.startswith("earshot_")
    assert earshot("jobs", "--json", EARSHOT_TOKEN=secret) == {"items": [], "next_cursor": None}
    listed = earshot("token", "list", "--json", **database)["items"]
    assert [(token["owner"], token["role"]) for token in listed] == [("ada", "submitter")]
    assert secret not in json.dumps(listed)
    assert secret not in earshot("token", "list", **database)
    # In another process: reading the file in the process that has it open would release SQLite's locks on it.
    assert subprocess.run(["grep", "-rqF", "ada", threaded.home], check=False).returncode == 0
    assert subprocess.run(["grep", "-rqF", secret, threaded.home], check=False).returncode == 1
    assert earshot("token", "revoke", made["id"], "--json", **database)["revoked"]
    assert "not valid" in earshot("jobs", code=2, EARSHOT_TOKEN=secret)
    assert "no token" in earshot("token", "revoke", made["id"], code=2, **database)
    actions = [entry.action for entry in threaded.do(lambda service: service.store.audit_log())]
    assert actions.count("token.revoke") == 2
    assert actions.count("token.create") == 1


def test_help_sends_no_request(earshot):
    assert "submit" in earshot("--help", EARSHOT_URL="nonsense")
    assert "TOKEN" in earshot("token", "revoke", "--help")
