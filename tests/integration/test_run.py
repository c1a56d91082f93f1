"""`earshot run` on the real parts: the files of a run, reproducibility, and stopping."""

import json
import os
import stat
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from integration.conftest import WARM, earshot, end, interrupt, lines, start_earshot, wait_for
from transformers import Qwen2AudioForConditionalGeneration

from orchestrator.run.directory import RunDirectory
from orchestrator.run.metrics import METRIC_NAMES

pytestmark = pytest.mark.timeout(2000)


@pytest.fixture(scope="module")
def finished(repeated) -> dict[str, Any]:
    return repeated["alone"]


def run_of(summary) -> RunDirectory:
    return RunDirectory(summary["run_dir"])


def test_stdout_is_one_json_document_with_the_result(finished):
    summary = finished
    assert (summary["state"], summary["steps"], summary["chance_accuracy"]) == ("succeeded", 3, 0.25)
    for name in ("baseline_accuracy", "final_accuracy", "silence_accuracy"):
        assert 0 <= summary[name] <= 1
    assert summary["seconds"] > 0


def test_the_run_directory_is_whole(finished):
    home = Path(finished["run_dir"])
    names = {p.name for p in home.iterdir()}
    assert names == {
        "job.yaml",
        "inputs.json",
        "metrics.jsonl",
        "samples.jsonl",
        "evaluated.jsonl",
        "events.jsonl",
        "summary.json",
        "report.html",
        "tensorboard",
        "checkpoints",
    }
    assert {p.name for p in (home / "checkpoints").iterdir()} == {"step-0", "step-1", "step-2", "step-3"}
    assert json.loads((home / "summary.json").read_text()) == finished
    assert "<svg" in (home / "report.html").read_text()
    umask = os.umask(0)
    os.umask(umask)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in home.rglob("*")}
    assert modes == {0o777 & ~umask, 0o666 & ~umask}


def test_every_step_has_every_metric(finished):
    metrics = run_of(finished).metrics()
    assert [m["step"] for m in metrics] == [1, 2, 3]
    expected = set(METRIC_NAMES) - {"eval/accuracy", "eval/accuracy_silence"}
    for m in metrics:
        assert expected <= m.keys()
        assert m["workers/alive"] == 2
        assert m["staleness/max"] == 0
        assert m["logprob/gap_max"] < 1e-4
        assert m["ratio/mean"] == pytest.approx(1, abs=1e-4)
        assert m["grad_norm"] > 0
    assert metrics[-1].keys() > {"eval/accuracy", "eval/accuracy_silence"}
    # The reference is the model at the start: no KL before the first step, some after it.
    assert metrics[0]["kl/ref"] == pytest.approx(0, abs=1e-6)
    assert metrics[-1]["kl/ref"] > 1e-5


def test_every_question_drawn_is_accounted_for(finished):
    counts = finished["questions"]
    assert counts["drawn"] == 3 * 6
    assert counts["drawn"] == sum(v for k, v in counts.items() if k != "drawn")
    samples = list(run_of(finished).samples())
    assert Counter(s["draw"] for s in samples) == dict.fromkeys(range(18), 4)
    assert {s["worker"] for s in samples} == {"rollout-0", "rollout-1"}
    for s in samples:
        # The warm start's steps came before the first rollout: weight versions count on from there.
        assert s["weight_version"] == s["learner_version"] == s["step"] - 1 + WARM["steps"]


def test_the_states_of_a_job(finished):
    events = run_of(finished).events()
    assert [e["state"] for e in events if e["kind"] == "state"] == ["starting", "running", "succeeded"]
    assert sum(e["kind"] == "worker_started" for e in events) == 2
    # A checkpoint is tried once, before any step.
    kinds = [e["kind"] for e in events if e["kind"] in ("checkpoint_tried", "warm_start", "checkpoint")]
    assert kinds[:2] == ["checkpoint_tried", "warm_start"]
    assert kinds.count("checkpoint_tried") == 1
    assert [step for step, _ in run_of(finished).evaluations()] == [0, 3]


def test_transformers_loads_the_checkpoint(finished, tiny_folder):
    checkpoint = Path(finished["run_dir"]) / "checkpoints" / "step-3"
    model, report = Qwen2AudioForConditionalGeneration.from_pretrained(
        checkpoint, dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    base = Qwen2AudioForConditionalGeneration.from_pretrained(tiny_folder, dtype=torch.float32)
    changed = {
        n for (n, a), b in zip(model.named_parameters(), base.parameters(), strict=True) if not torch.equal(a, b)
    }
    assert any("audio_tower" in n for n in changed)
    assert any("lm_head" in n for n in changed)


def test_vllm_loads_the_checkpoint_and_evaluates_it_alike(finished, benchmark_home):
    """Engines that load the last checkpoint answer like those that received its weights."""
    checkpoint = Path(finished["run_dir"]) / "checkpoints" / "step-3"
    result = earshot(
        "evaluate",
        checkpoint,
        *("--data", benchmark_home / "heldout.jsonl", "--max-tokens", 8, "--max-context", 256, "--json"),
    )
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout)
    assert found["accuracy"] == finished["final_accuracy"]
    assert found["silence_accuracy"] == finished["silence_accuracy"]
    assert 0 <= found["shuffled_accuracy"] <= 1
    assert set(found["by_task"]) == {"sound", "music", "speech"}
    assert all(0 <= part["shuffled_accuracy"] <= 1 for part in found["by_category"].values())


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
