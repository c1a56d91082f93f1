"""Speedup of asynchronous rollouts: steps per second with `rollout.max_staleness` 2 over 0.

There are two loads. Balanced: the controller loop and the pool with simulated workers and a simulated learner that take
equally long, so the maximum speedup is 2; this is the value. Real: two jobs of `earshot run` with real engines and a
real learner on the tiny model, in turns: one is paused while the other makes some steps. Engines and learner share this
machine's cores, so there is less to gain.

`passed` is true if the balanced load is at least 1.7 times as fast, and the real one no slower.
"""

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from audio_qa.question import Question
from benchmarks.support.result import Result
from learner.messages import BatchCounts, PhaseSettings
from orchestrator.display.progress import make_progress
from orchestrator.job.spec import JobSpec
from orchestrator.run.checkpoints import Checkpoints
from orchestrator.run.directory import RunDirectory
from orchestrator.run.files import METRICS
from orchestrator.training.control import Control
from orchestrator.training.loop import Parts
from orchestrator.training.reinforce import ReinforceLoop
from orchestrator.training.state import RunState
from protocol.reward import Score
from protocol.rollout import Group, WorkerSettings
from protocol.training import Learned, TrainingGroup
from protocol.weights import Carrier, WeightUpdate
from rollout_workers.pool.pool import RolloutPool
from rollout_workers.simulated import SimulatedHandle, SimulatedPace

EARSHOT = Path(sys.executable).parent / "earshot"
BALANCED_NEEDED, REAL_NEEDED = 1.7, 1.0
WORKERS, GROUPS_AT_ONCE, SECONDS = 4, 4, 0.5
REAL_STEPS, WARM_UP = 10, 5
TIMEOUT_SECONDS = 600.0
MAX_STALENESS = 2


class SimulatedLearner:
    """A learner whose steps take `SECONDS` and change nothing."""

    def __init__(self) -> None:
        self.weight_version = 0

    async def start_phase(self, folder: str, phase: PhaseSettings, resume: str | None) -> None:
        """Do nothing: there is no model to load."""

    async def prepare(self, prompts: Sequence[Any]) -> dict[int, str]:
        return {}

    async def learn(self, groups: Sequence[TrainingGroup], counts: BatchCounts) -> Learned:
        await asyncio.sleep(SECONDS)
        self.weight_version += 1
        return Learned(self.weight_version, {"loss/policy": 0.0, "tokens/trained": 1.0})

    async def publish(self, carrier: Carrier) -> WeightUpdate:
        return WeightUpdate(self.weight_version, (), False, 0)

    async def save(self, folder: str, *, state: bool) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)

    async def is_saving(self) -> bool:
        return False

    async def wait_saved(self) -> None:
        """Do nothing: no checkpoint is written."""


async def score(groups: Sequence[Group]) -> list[tuple[Score, ...]]:
    """Score half of each group as correct."""
    return [tuple(Score({}, float(i % 2)) for i, _ in enumerate(group.completions)) for group in groups]


async def balanced(max_staleness: int, steps: int, folder: Path) -> dict[str, float]:
    """Measure seconds per step of the controller loop with simulated workers and learner."""
    questions = [Question("d", i, str(i), "a.wav", "What?", ("yes", "no"), "yes") for i in range(1000)]
    rollout = {
        "workers": WORKERS,
        "group_size": 8,
        "questions_per_step": WORKERS * GROUPS_AT_ONCE,
        "max_staleness": max_staleness,
    }
    spec = JobSpec.model_validate(
        {
            "model": {"path": "m"},
            "data": {"train": "t"},
            "steps": steps,
            "rollout": rollout,
            "learner": {"beta": 0},
            "checkpoint": {"every": 0},
        }
    )
    run = RunDirectory.create(folder, "name: simulated\n")
    pace = SimulatedPace(group_seconds=SECONDS, groups_at_once=GROUPS_AT_ONCE)
    pool = RolloutPool(
        WorkerSettings("m", 64, max_concurrent=GROUPS_AT_ONCE * 8),
        make_worker=lambda name: SimulatedHandle(name, pace),
    )
    await pool.start(WORKERS)
    await pool.wait_until_serving(WORKERS)
    learner: Any = SimulatedLearner()
    parts = Parts(
        spec=spec,
        train=questions,
        held_out=[],
        pool=pool,
        learner=learner,
        run_dir=run,
        checkpoints=Checkpoints(run, keep_last=0, keep_best=False),
        progress=make_progress("quiet"),
        state=RunState(),
        control=Control(run),
    )
    loop = ReinforceLoop(parts, score)
    started = time.perf_counter()
    await loop.run("m", None, _at_once)
    seconds = time.perf_counter() - started
    await pool.stop()
    metrics = run.metrics()
    assert len(metrics) == steps
    return {"seconds_per_step": seconds / steps, "staleness_max": max(m["staleness/max"] for m in metrics)}


async def _at_once() -> None:
    """Do nothing: all workers are ready."""


class Job:
    """A job of `earshot run` that is paused except while `make` waits for steps."""

    def __init__(self, max_staleness: int, folder: Path) -> None:
        job = {
            "name": "real",
            "seed": 0,
            "steps": 10_000,
            "model": {"path": "builtin:tiny-qwen2-audio", "max_context": 256},
            "data": {"train": "builtin:synthetic", "prompt": "2"},
            "rollout": {"workers": 2, "group_size": 8, "questions_per_step": 32, "max_tokens": 24}
            | {"max_staleness": max_staleness},
            "learner": {"optimizer": {"learning_rate": 1e-5}},
            "checkpoint": {"every": 0},
        }
        path = folder / f"real-{max_staleness}.yaml"
        path.write_text(yaml.safe_dump(job))
        self._home = path.with_suffix("")
        command = [str(EARSHOT), "run", str(path), "--json", "--run-dir", str(self._home)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def make(self, steps: int) -> list[dict[str, Any]]:
        """Make further steps, pause, and return the metrics of those steps."""
        before = len(self._metrics())
        if before:
            self._command("resume")
        self._wait_for(lambda: len(self._metrics()) >= before + steps)
        self._command("pause")
        self._wait_for(lambda: self._state() == "paused")
        return self._metrics()[before : before + steps]

    def end(self) -> None:
        """Stop the job as Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(timeout=60)

    def _metrics(self) -> list[dict[str, Any]]:
        return RunDirectory(self._home).metrics() if (self._home / METRICS).exists() else []

    def _state(self) -> str:
        events = RunDirectory(self._home).events()
        return str([event["state"] for event in events if event["kind"] == "state"][-1])

    def _command(self, command: str) -> None:
        subprocess.run([EARSHOT, command, self._home, "--json"], check=True, stdout=subprocess.DEVNULL, timeout=60)

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not condition():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the job in {self._home} ended or made no steps")
            time.sleep(0.1)


def real(rounds: int, folder: Path) -> list[dict[str, dict[str, float]]]:
    """Measure seconds per step of two real jobs in turns: one is paused while the other runs."""
    jobs: dict[str, Job] = {}
    try:
        for bound in (0, MAX_STALENESS):
            jobs[str(bound)] = Job(bound, folder)
            jobs[str(bound)].make(WARM_UP)
        measured = []
        for _ in range(rounds):
            measured.append({bound: _figures(job.make(WARM_UP + REAL_STEPS)[WARM_UP:]) for bound, job in jobs.items()})
            print(json.dumps(measured[-1]), file=sys.stderr, flush=True)
    finally:
        for job in jobs.values():
            job.end()
    return measured


def _figures(metrics: list[dict[str, Any]]) -> dict[str, float]:
    """Average the steps after the warm-up, which consumes groups generated during the pause."""
    return {
        "seconds_per_step": sum(m["time/step"] for m in metrics) / len(metrics),
        "tokens_per_step": sum(m["tokens/generated"] for m in metrics) / len(metrics),
        "staleness_max": max(m["staleness/max"] for m in metrics),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="Number of turns of the real jobs.")
    parser.add_argument("--steps", type=int, default=40, help="Steps of the simulated jobs.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="earshot-bench-") as name:
        folder = Path(name)
        simulated = {
            str(bound): asyncio.run(balanced(bound, arguments.steps, folder / f"simulated-{bound}"))
            for bound in (0, MAX_STALENESS)
        }
        print(json.dumps(simulated), file=sys.stderr, flush=True)
        rounds = real(arguments.rounds, folder)
    value = _speedup(simulated)
    ratios = [round(_speedup(one), 3) for one in rounds]
    bounds = {
        "balanced_at_least_1.7": value >= BALANCED_NEEDED,
        "real_no_slower": bool(ratios) and median(ratios) >= REAL_NEEDED,
    }
    details = {"passed": all(bounds.values()), "bounds": bounds, "real_ratios": ratios} | {
        "max_staleness": MAX_STALENESS,
        "simulated": simulated,
        "real": rounds,
    }
    Result("async_speedup", round(value, 3), "times synchronous", "higher", details).publish()
    if not details["passed"]:
        raise SystemExit(1)


def _speedup(one: dict[str, dict[str, float]]) -> float:
    return one["0"]["seconds_per_step"] / one[str(MAX_STALENESS)]["seconds_per_step"]


if __name__ == "__main__":
    main()
