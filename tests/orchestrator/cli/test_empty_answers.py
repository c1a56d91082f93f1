"""Commands about a job that does not have what was asked for, or has more than fits in one page."""

import pytest
from support.service import Threaded, sample
from typer.testing import CliRunner

from orchestrator.cli.main import app


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Serve a running job with three samples and one metric, and yield its id."""
    with Threaded(tmp_path) as service:
        made, run = service.do(lambda one: one.running())
        run.append_samples([sample("/none.wav", step, 0) for step in range(3)])
        run.append_metrics({"step": 1, "reward/mean": 0.5})
        monkeypatch.setenv("EARSHOT_URL", service.url)
        monkeypatch.delenv("EARSHOT_TOKEN", raising=False)
        yield made.id


def earshot(*words):
    done = CliRunner().invoke(app, list(words), prog_name="earshot")
    # The service of this test logs to stderr, too.
    return done.exit_code, done.stdout, [line for line in done.stderr.splitlines() if line.startswith("earshot: ")]


def test_ids_that_no_job_has(job):
    for wrong, detail in (
        ("", "'' is not the id of a job; `earshot jobs` lists them"),
        ("runs/small", "'runs/small' is not the id of a job; `earshot jobs` lists them"),
        ("small.v1", "there is no job 'small.v1'"),
    ):
        assert earshot("show", wrong) == (2, "", [f"earshot: {detail}"])


def test_metrics_that_the_job_does_not_have(job):
    code, out, err = earshot("metrics", job, "--names", "reward,reward/mean")
    assert (code, err) == (0, ["earshot: the job has no metric 'reward'; it has reward/mean"])
    assert "reward/mean" in out
    assert earshot("metrics", job, "--names", "reward/mean")[2] == []
    assert earshot("metrics", job, "--names", "reward")[1] == "There are no such metrics.\n"


def test_samples_continue_on_another_page(job):
    code, out, _ = earshot("samples", job, "--limit", "2")
    [last] = [line for line in out.splitlines() if line.startswith("There are more: ")]
    words = last.removeprefix("There are more: earshot ").split()
    assert (code, words[:2]) == (0, ["samples", job])
    rest = earshot(*words)[1]
    assert "There are more" not in rest
    assert len(rest.splitlines()) == 2
    assert "no such samples" in earshot("samples", job, "--step", "77")[1]
