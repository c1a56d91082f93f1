"""A whole job, `earshot run`: on a GPU, engine and learner share it and weights go by CUDA IPC."""

import asyncio
import json
import os
import shutil
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from benchmarks.gpu_day.plan import Home
from benchmarks.gpu_day.running import Findings, free_gib

_POLL_SECONDS = 0.5
_PHASES = ("time/step", "time/generate", "time/reward", "time/learner_wait", "time/learn", "time/sync")
_TOLERANCE_GIB = 1.0
_MOST_GAP = {"float32": 1e-3, "bfloat16": 5.0}
"""Largest gap of any token, in nats. The whole distribution of bfloat16's gaps is measured by the part `gaps`."""


def job_document(home: Home) -> dict[str, Any]:
    """Return the job file. Its reward is the completions' length in words: random weights answer no question."""
    plan, sizes = home.plan, home.plan.sizes
    on_gpu = plan.device == "cuda"
    return {
        "name": "gpu-day",
        "steps": plan.steps,
        "model": {"path": str(home.model), "max_context": sizes.max_context},
        "data": {"train": str(home.questions)},
        "rollout": {
            "workers": 1,
            "questions_per_step": sizes.questions,
            "group_size": sizes.group_size,
            "max_tokens": sizes.max_tokens,
            "max_concurrent": sizes.max_concurrent,
            # Digests of weights at true widths take seconds in each step.
            "weight_checksums": plan.small,
            "gpu_memory_fraction": plan.engine_fraction,
            "engine": dict(plan.engine),
            **({"gpus": 0.5, "weight_sync": "cuda_ipc"} if on_gpu else {"threads": 1}),
        },
        "reward": {
            "functions": {"length": 1},
            "length": {"target": 0, "tolerance": sizes.max_tokens, "unit": "words"},
        },
        "learner": {
            "beta": 0,
            "dtype": plan.dtype,
            "zero_stage": 1 if on_gpu else 0,
            "micro_batch_tokens": 4096,
            "activation_checkpointing": on_gpu,
            "optimizer": {"learning_rate": 1e-5, "schedule": "constant"},
            **({"lora": {"rank": 16}} if plan.adapters else {}),
            **({} if on_gpu else {"threads": 1}),
        },
        "checkpoint": {"every": 0, "keep_last": 1},
        # The check is there to try what an estimate only expects.
        "cluster": {"check_memory": False},
    }


def metrics_of(run_dir: Path) -> list[dict[str, Any]]:
    """Return the metrics of the steps that are complete."""
    file = run_dir / "metrics.jsonl"
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]


async def run_job(home: Home) -> Findings:
    """Run the job to its end; return the times of its phases."""
    on_gpu = home.plan.device == "cuda"
    free = [free_gib()] if on_gpu else []
    file, run_dir = home.folder / "job.yaml", home.folder / "run"
    shutil.rmtree(run_dir, ignore_errors=True)
    file.write_text(yaml.safe_dump(job_document(home)))
    command = (sys.executable, "-c", "from orchestrator.cli.main import main; main()")
    environment = {**os.environ, "EARSHOT_CACHE": str(home.folder / "cache")}
    started = time.perf_counter()
    job = await asyncio.create_subprocess_exec(
        *command, "run", str(file), "--run-dir", str(run_dir), "--json", env=environment
    )
    ended = asyncio.create_task(job.wait())
    shown, first_step = 0, 0.0
    while not ended.done():
        await asyncio.wait([ended], timeout=_POLL_SECONDS)
        for step in metrics_of(run_dir)[shown:]:
            shown += 1
            first_step = first_step or time.perf_counter() - started
            times = ", ".join(f"{name.partition('/')[2]} {step.get(name) or 0:.2f}" for name in _PHASES)
            home.report(f"step {step['step']}: {times} s; gap {step.get('logprob/gap_max') or 0:.2g}")
    code = await ended
    seconds = time.perf_counter() - started
    steps = metrics_of(run_dir)
    if code:
        raise RuntimeError(f"earshot run ended with exit code {code} after {len(steps)} of {home.plan.steps} steps")
    if on_gpu:
        free.append(free_gib())
    phases = {name: [round(step.get(name) or 0.0, 3) for step in steps] for name in _PHASES}
    gaps = [step.get("logprob/gap_max") for step in steps]
    return Findings(
        checks={
            "all_steps": [step["step"] for step in steps] == list(range(1, home.plan.steps + 1)),
            "trained": sum(step.get("learner/updates") or 0 for step in steps) >= home.plan.steps // 2,
            "nothing_failed": not any(step.get("groups/failed") for step in steps),
            "gap_within_bounds": all(gap is None or gap < _MOST_GAP[home.plan.dtype] for gap in gaps),
            "memory_is_free_again": not on_gpu or free[1] > free[0] - _TOLERANCE_GIB,
        },
        measured={
            "seconds": round(seconds, 1),
            "seconds_to_first_step": round(first_step, 1),
            "median_seconds": {name: round(median(values), 3) for name, values in phases.items()},
            "phases": phases,
            "gap_max_nats": gaps,
            **({"free_gib": [round(f, 2) for f in free]} if on_gpu else {}),
        },
    )
