"""The job that `earshot data filter` makes from a job file or a question file."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli.data import data
from orchestrator.cli.data.data import filter_job
from orchestrator.cli.main import app
from orchestrator.job.demand import shares_gpus
from orchestrator.job.sections.model import TINY_CONTEXT, TINY_INSTRUCT

JOB = """\
model: {path: builtin:tiny-qwen2-audio, max_context: 256}
data: {train: builtin:synthetic}
rollout: {gpus: 1, max_tokens: 9}
"""


@pytest.mark.parametrize(("option", "gpus"), [(None, 1), (0.0, 0), (2.0, 2)])
def test_a_job_file_has_its_own_gpus_unless_the_option_is_given(tmp_path: Path, option: float | None, gpus: float):
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    job = filter_job(str(path), None, "auto", [], None, 64, option)
    assert (job.rollout.gpus, job.rollout.max_tokens) == (gpus, 9)
    assert job.rollout.tensor_parallel == max(1, gpus)


def test_workers_of_shared_gpus_have_whole_ones_where_nothing_is_trained(tmp_path: Path):
    """In pairs on one GPU, the second engine would find the memory taken."""
    path = tmp_path / "job.yaml"
    path.write_text(JOB.replace("gpus: 1", "gpus: 0.5, workers: 4, weight_sync: cuda_ipc") + "learner: {ranks: 4}\n")
    job = filter_job(str(path), None, "auto", [], None, 64, None)
    assert (job.rollout.gpus, job.rollout.workers, shares_gpus(job)) == (1, 4, False)
    assert not shares_gpus(filter_job(str(path), None, "auto", [], None, 64, 0.25))


def test_an_existing_output_is_refused_before_the_model_is_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(data, "prepare", lambda *_: pytest.fail("the model was prepared"))
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "old.jsonl").write_text("")
    done = CliRunner().invoke(
        app, ["data", "filter", str(tmp_path / "job.yaml"), "--output", str(tmp_path / "old.jsonl")]
    )
    assert done.exit_code == 2
    assert "exists; name a new file" in done.stderr


@pytest.mark.parametrize(("option", "gpus"), [(None, 0), (1.0, 1)])
def test_a_question_file_is_asked_on_the_cpu_unless_the_option_is_given(option: float | None, gpus: float):
    job = filter_job("train.jsonl", TINY_INSTRUCT, "auto", [], None, 64, option)
    assert (job.rollout.gpus, job.rollout.max_tokens) == (gpus, 64)
    assert (job.model.path, job.model.max_context) == (TINY_INSTRUCT, TINY_CONTEXT)
