"""Validation of storage URLs: each error is one line without secrets."""

import sys

import pytest
from support.storage import spec_with
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.job.spec_file import SpecError
from orchestrator.job.storage_url import check_url, split_run
from orchestrator.storage.location import open_location


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://ada:hunter2@bucket/runs", "name and password"),
        ("s3://ada:hunter2/x@bucket/runs", "name and password"),
        ("sftp://ada:hunter2@host/runs", "name and password"),
        ("s3://bucket/runs?X-Amz-Signature=hunter2", "query"),
        ("https://host/runs", "nothing can be written"),
        ("file://runs", "absolute path"),
        ("file:///", "a URL such as"),
        ("s3://", "a URL such as"),
        ("/runs", "a URL such as"),
        ("simplecache::s3://bucket/runs", "a URL such as"),
    ],
)
def test_other_urls_are_refused_in_the_job_file(url, words):
    with pytest.raises(SpecError) as caught:
        spec_with(url)
    line = str(caught.value)
    assert line.startswith("test: storage: ")
    assert words in line
    assert "hunter2" not in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "url",
    ["s3://bucket", "gs://bucket/a/b", "file:///a", "memory://a", "abfs://container@account.dfs.core.windows.net/a"],
)
def test_urls_of_a_storage_are_accepted(url):
    check_url(url)
    assert spec_with(f"{url}/").storage == url


def test_a_runs_url_is_a_storage_and_a_name():
    assert split_run("s3://bucket/deep/runs/my-run") == ("s3://bucket/deep/runs", "my-run")
    assert split_run("s3://bucket/my-run/") == ("s3://bucket", "my-run")
    for url in ("s3://bucket", "s3://bucket/..", "s3://bucket/a b", "file:///run"):
        with pytest.raises(ValueError, match="name"):
            split_run(url)


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(SpecError, match=r"gs:// URLs need the package gcsfs.*install earshot\[gcs\]"):
        open_location("gs://bucket/runs")


def test_an_unknown_scheme_is_refused():
    with pytest.raises(SpecError, match="nonsense"):
        open_location("nonsense://bucket/runs")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "examples/demo.yaml", "--run-dir", "s3://ada:hunter2@bucket/run"], "--run-dir: the s3:// URL"),
        (["run", "--resume", "--run-dir", "memory://nothing/run"], "no run at memory://nothing/run"),
        (["serve", "--storage", "s3://ada:hunter2@bucket"], "--storage: the s3:// URL"),
        (["evaluate", "memory://nothing/run/checkpoints/step-1"], "not a stored checkpoint"),
    ],
)
def test_the_command_refuses_before_anything_is_written(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "demo.yaml").write_text("model: {path: m}\ndata: {train: t}\n")
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "hunter2" not in result.output
    assert not (tmp_path / "runs").exists()
