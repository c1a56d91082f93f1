"""The files of a run: what a job with every feature on leaves, step by step, for people and programs to read."""

import json
import os
import stat
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from integration.conftest import WARM, earshot
from transformers import Qwen2AudioForConditionalGeneration

from orchestrator.run.directory import RunDirectory
from orchestrator.run.metrics import METRIC_NAMES

# The job is that of test_recovery.py, which runs in the same process.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(2000)]


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
