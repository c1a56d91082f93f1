"""How much faster is a job whose rollouts go on while the learner works? Steps a second, asynchronous over synchronous.

Two loads. Balanced: the product's loop and pool on simulated workers and a simulated learner that take equally long, so
that 2 is the most there can be; this is the value. Real: two whole jobs with `earshot run`, real engines and a real
learner on the tiny model and this machine's cores, of which one is paused while the other makes some steps, in turns;
they share the cores, so that there is less to gain.

`passed` says whether the balanced load is at least 1.7 times as fast, and the real one no slower.
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
from benchmarks.result import Result
from learner.phase import Counts, TrainingPhase
from orchestrator.display.progress import make_progress
from orchestrator.job.spec import JobSpec
from orchestrator.run.checkpoints import Checkpoints
from orchestrator.run.directory import RunDirectory
from orchestrator.training.control import Control
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
LONGEST_SECONDS = 600.0
MAX_STALENESS = 2


class SimulatedLearner:
    """A learner that takes a while and learns nothing."""

    def __init__(self) -> None:
        self.weight_version = 0

    async def begin(self, folder: str, phase: TrainingPhase, resume: str | None) -> None:
        """There is nothing to load."""

    async def prepare(self, asked: Sequence[Any]) -> dict[int, str]:
        return {}

    async def learn(self, groups: Sequence[TrainingGroup], counts: Counts) -> Learned:
        await asyncio.sleep(SECONDS)
        self.weight_version += 1
        return Learned(self.weight_version, {"loss/policy": 0.0, "tokens/trained": 1.0})

    async def publish(self, carrier: Carrier) -> WeightUpdate:
        return WeightUpdate(self.weight_version, (), False, 0)

    async def save(self, folder: str, *, state: bool) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)

    async def saving(self) -> bool:
        return False

    async def saved(self) -> None:
        """Nothing is written."""


async def score(groups: list[Group]) -> list[tuple[Score, ...]]:
    """Half of each group is right."""
    return [tuple(Score({}, float(i % 2)) for i, _ in enumerate(group.completions)) for group in groups]


async def balanced(max_staleness: int, steps: int, folder: Path) -> dict[str, float]:
    """Seconds a step of the product's loop on simulated parts."""
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
    await pool.serving(WORKERS)
    learner: Any = SimulatedLearner()
    controller = ReinforceLoop(
        spec=spec,
        train=questions,
        held_out=[],
        pool=pool,
        learner=learner,
        run=run,
        checkpoints=Checkpoints(run, keep_last=0, keep_best=False),
        progress=make_progress("quiet"),
        state=RunState(),
        control=Control(run),
        score=score,
    )
    started = time.perf_counter()
    await controller.go("m", None, _at_once)
    seconds = time.perf_counter() - started
    await pool.stop()
    metrics = run.metrics()
    assert len(metrics) == steps
    return {"seconds_per_step": seconds / steps, "staleness_max": max(m["staleness/max"] for m in metrics)}


async def _at_once() -> None:
    """All workers are there."""


class Job:
    """A whole job in processes of its own, that makes steps when it is told to and else waits."""

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
        """The metrics of so many steps more, behind which it waits."""
        before = len(self._metrics())
        if before:
            self._tell("resume")
        self._until(lambda: len(self._metrics()) >= before + steps)
        self._tell("pause")
        self._until(lambda: self._state() == "paused")
        return self._metrics()[before : before + steps]

    def end(self) -> None:
        """As Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(timeout=60)

    def _metrics(self) -> list[dict[str, Any]]:
        return RunDirectory(self._home).metrics() if (self._home / "metrics.jsonl").exists() else []

    def _state(self) -> str:
        events = RunDirectory(self._home).events()
        return str([event["state"] for event in events if event["kind"] == "state"][-1])

    def _tell(self, what: str) -> None:
        subprocess.run([EARSHOT, what, self._home, "--json"], check=True, stdout=subprocess.DEVNULL, timeout=60)

    def _until(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LONGEST_SECONDS
        while not true():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the job in {self._home} ended or made no steps")
            time.sleep(0.1)


def real(rounds: int, folder: Path) -> list[dict[str, dict[str, float]]]:
    """Seconds a step of two whole jobs, of which one waits while the other goes on, in turns."""
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
    """Of the steps behind those that find what was generated while the job waited."""
    return {
        "seconds_per_step": sum(m["time/step"] for m in metrics) / len(metrics),
        "tokens_per_step": sum(m["tokens/generated"] for m in metrics) / len(metrics),
        "staleness_max": max(m["staleness/max"] for m in metrics),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="turns of the real jobs")
    parser.add_argument("--steps", type=int, default=40, help="steps of the simulated jobs")
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
