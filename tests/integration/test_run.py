"""`earshot run` on the real parts: other methods than GRPO, and stopping."""

import json
import time
from collections import Counter

import psutil
import pytest
from integration.conftest import earshot, end, interrupt, lines, start_earshot, wait_for

from orchestrator.run.directory import RunDirectory
from orchestrator.run.metrics import METRIC_NAMES

pytestmark = pytest.mark.timeout(2000)


def test_a_job_may_only_evaluate(job_file, tmp_path):
    """No learner is started, and several answers a question are drawn."""
    job = job_file(
        tmp_path,
        method="evaluate",
        steps=0,
        evaluation={"questions": 8, "samples": 4, "temperature": 1.0},
        rollout={"workers": 1},
    )
    home = tmp_path / "run"
    done = earshot("run", job, "--json", "--run-dir", home)
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads(done.stdout)
    assert {p.name for p in home.iterdir()} == {
        "job.yaml",
        "inputs.json",
        "events.jsonl",
        "evaluated.jsonl",
        "evaluation.json",
        "predictions.jsonl",
        "summary.json",
        "report.html",
        "tensorboard",
    }
    result = json.loads((home / "evaluation.json").read_text())
    assert (result["count"], result["samples"], set(result["pass_at"])) == (8, 4, {"1", "2", "4"})
    assert all(len(answer["completions"]) == 4 for answer in result["answers"])
    for name in ("silence_accuracy", "shuffled_accuracy"):
        assert summary[name] == result[name]
        assert 0 <= result[name] <= 1
    assert (summary["state"], summary["steps"], summary["final_accuracy"]) == ("succeeded", 0, result["accuracy"])
    events = RunDirectory(home).events()
    assert [e["state"] for e in events if e["kind"] == "state"] == ["starting", "running", "succeeded"]
    # Every completion is there, those of both controls included.
    said = list(RunDirectory(home).evaluated())
    assert Counter(sample["control"] for sample in said) == {None: 32, "silence": 32, "shuffled": 32}
    assert [s["text"] for s in said if s["control"] is None] == [
        text for answer in result["answers"] for text in answer["completions"]
    ]
    predictions = lines(home / "predictions.jsonl")
    assert [item["model_prediction"] for item in predictions] == [a["prediction"] for a in result["answers"]]
    # Its result compares like that of `earshot evaluate`, and there is nothing to resume.
    assert json.loads(earshot("compare", home / "evaluation.json", home / "evaluation.json", "--json").stdout)
    again = earshot("run", "--resume", "--run-dir", home)
    assert again.returncode == 2
    assert "nothing to resume" in again.stderr


def test_a_supervised_job_learns_right_answers(job_file, tmp_path):
    """Adapters, and a worker that only answers held-out questions; ledger, checkpoints and metrics as of any job."""
    job = job_file(
        tmp_path,
        method="supervised",
        steps=24,
        supervised={"batch_size": 10},
        evaluation={"questions": 4},
        checkpoint={"every": 10, "keep_last": 1, "keep_best": False},
        rollout={"workers": 1},
        learner={
            "lora": {"rank": 16, "alpha": 32},
            "optimizer": {"learning_rate": 1.0e-2, "schedule": "constant"},
            "beta": 0,
        },
    )
    result = earshot("run", job, "--json", "--run-dir", tmp_path / "run")
    assert result.returncode == 0, result.stderr[-3000:]
    summary = json.loads(result.stdout)
    metrics = RunDirectory(tmp_path / "run").metrics()
    assert len(metrics) == 24
    assert all(set(METRIC_NAMES) - {"eval/accuracy", "eval/accuracy_silence"} <= m.keys() for m in metrics)
    assert metrics[0]["loss/total"] > 5
    # Adapters beside random weights, whose head stays as it is, do not learn much; but they learn.
    assert metrics[-1]["loss/total"] < metrics[0]["loss/total"] - 1
    assert summary["questions"]["drawn"] == summary["questions"]["trained"] == 240
    assert {p.name for p in (tmp_path / "run" / "checkpoints").iterdir()} == {"step-24"}
    assert [step for step, _ in RunDirectory(tmp_path / "run").evaluations()] == [0, 24]


def family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def test_a_clip_lost_in_mid_run_is_recorded_and_ctrl_c_leaves_nothing(job_file, tmp_path):
    job = job_file(
        tmp_path,
        steps=1000,
        data={"shuffle": False},
        evaluation={"questions": 5},
        rollout={"workers": 1, "questions_per_step": 20, "group_size": 2, "max_refills": 1},
        # Random weights are never right: every group has equal rewards, and others are drawn instead.
        learner={"beta": 0, "loss": {"algorithm": "dapo"}},
        reward={"functions": {"accuracy": 1.0}},
    )
    home = tmp_path / "run"
    process = start_earshot("run", job, "--run-dir", home, stderr=tmp_path / "stderr.txt")
    try:
        wait_for((home / "events.jsonl").exists, process, 60)
        (tmp_path / "data" / "train" / "000003.wav").unlink()
        (tmp_path / "data" / "train" / "000004.wav").write_bytes(b"no audio")
        wait_for(lambda: (home / "metrics.jsonl").exists() and len(lines(home / "metrics.jsonl")) >= 2, process, 200)
        started = family(psutil.Process(process.pid))
        interrupt(process)
        before = time.monotonic()
        process.wait(timeout=30)
        seconds = time.monotonic() - before
    finally:
        end(process)
    assert seconds < 10, f"{seconds:.1f} s after Ctrl-C"
    assert process.returncode == 130
    _gone, alive = psutil.wait_procs(started, timeout=2)
    assert not alive, [p.cmdline()[:4] for p in alive]
    run = RunDirectory(home)
    failed = [e for e in run.events() if e["kind"] == "failed_question" and e["step"] == 1]
    assert sorted(e["question"] for e in failed) == ["train:3", "train:4"]
    assert {e["reason"] for e in failed} == {"audio"}
    assert all("00000" in e["detail"] for e in failed)
    first = run.metrics()[0]
    assert (first["groups/failed"], first["groups/zero_variance"], first["groups/trained"]) == (2, 38, 0)
    assert [e["state"] for e in run.events() if e["kind"] == "state"][-1] == "cancelled"
    assert (home / "report.html").stat().st_size > 1000
    assert run.torn() == ()
