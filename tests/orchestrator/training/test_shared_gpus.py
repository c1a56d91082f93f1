"""Engines and learner on the same GPUs: over starts, steps, losses and resumes, neither runs out of memory.

The pool, the loops and the supervisor are those of a job; GPUs, engines and learner are simulated.
"""

import asyncio
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.memory.shared_gpus import Engine, Faults, Gpu, Learner

from audio_qa.question import Question
from orchestrator.cluster.reservation import ReservationState
from orchestrator.display.progress import make_progress
from orchestrator.driver import recovery
from orchestrator.job.spec import JobSpec
from orchestrator.preflight.prepare import Prepared
from orchestrator.run.checkpoints import checkpoints_of
from orchestrator.run.directory import RunDirectory
from orchestrator.training.control import Control
from orchestrator.training.state import RunState
from protocol.reward import Score
from protocol.rollout import WorkerSettings
from rollout_workers.limits import RolloutLimits
from rollout_workers.pool import engine_memory, worker_life
from rollout_workers.pool.pool import RolloutPool

GPUS = 2
QUESTIONS = tuple(Question("d", i, str(i), "a.wav", "What?", ("yes", "no"), "yes") for i in range(40))
LIMITS = RolloutLimits(silent_seconds=2, drain_seconds=0.1, lag_seconds=1, max_restarts=1000, attempts=100)


class EnoughRoom:
    """A stand-in for a cluster that has room for everything."""

    def hold(self, part: str) -> None: ...

    def give_back(self, reservation: object) -> None: ...

    def reserve(self, part: str, bundles: Any) -> SimpleNamespace:
        async def nodes() -> list[str]:
            return ["node"] * len(bundles.needs)

        async def state() -> ReservationState:
            return ReservationState.GRANTED

        return SimpleNamespace(bundles=bundles, place=lambda rank: None, nodes=nodes, state=state)

    async def wait(self, part: str, reservation: object, seconds: float, **_: object) -> bool:
        return True


def spec_of(method: str = "reinforce", steps: int = 2, every: int = 1, **more: Any) -> JobSpec:
    return JobSpec.model_validate(
        {
            "method": method,
            "steps": steps,
            "model": {"path": "builtin:tiny-qwen2-audio", "max_context": 512},
            "data": {"train": "t", "evaluation": "e"},
            "supervised": {"batch_size": 2},
            "rollout": {
                "workers": GPUS,
                "gpus": 0.5,
                "gpu_memory_fraction": 0.6,
                "weight_sync": "cuda_ipc",
                "group_size": 2,
                "questions_per_step": 4,
            },
            "learner": {"ranks": GPUS, "beta": 0, "max_restarts": 100},
            "evaluation": {"every": every, "controls": []},
            "checkpoint": {"every": every},
            **more,
        }
    )


async def score(groups):
    return [tuple(Score({}, float(i % 2)) for i, _ in enumerate(group.completions)) for group in groups]


async def run_job(spec: JobSpec, run: RunDirectory, state: RunState, faults: dict[int, str], seed: int) -> list[str]:
    """Run a job on new GPUs to its end; return what broke the rules of their memory."""
    violations: list[str] = []
    gpus = tuple(Gpu(violations) for _ in range(GPUS))
    engines: dict[str, list[Engine]] = {}

    def strike(what: str) -> None:
        if what == "learner":
            Learner.fail_next = True
        elif engines.get(what):
            engines[what][-1].crash()

    calls = Faults({count: lambda what=what: strike(what) for count, what in faults.items()}, seed)
    Learner.gpus, Learner.faults, Learner.fail_next = gpus, calls, False

    def make(name: str) -> Engine:
        made = engines.setdefault(name, [])
        made.append(Engine(name, gpus[int(name[-1])], len(made), calls, violations))
        return made[-1]

    pool = RolloutPool(WorkerSettings("m", 64, max_concurrent=8, shares_gpu=True), LIMITS, make_worker=make)
    prepared = Prepared(spec, "m", QUESTIONS[:30], QUESTIONS[30:34], None, True, 0)
    job = recovery.LearnerSupervisor(
        prepared, run, state, make_progress("quiet"), pool, score, Control(run), EnoughRoom()
    )
    pool.scale(GPUS, "the job starts")
    starting = asyncio.ensure_future(pool.wait_started())
    try:
        async with asyncio.timeout(12):
            await job.run(starting)
    finally:
        await pool.stop()
        if job.learner is not None:
            await job.learner.stop()
    return violations


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recovery, "LearnerGroup", Learner)
        patch.setattr(recovery, "_FIRST_BACK_OFF_SECONDS", 0.01)
        patch.setattr(engine_memory, "SECONDS_TO_FREE", 0.03)
        patch.setattr(worker_life, "_FIRST_RESTART_SECONDS", 0.03)
        patch.setattr(worker_life, "_LONGEST_RESTART_SECONDS", 0.03)
        yield


def play(spec: JobSpec, faults: dict[int, str] | None = None, *, then: JobSpec | None = None, seed: int = 0) -> None:
    """Run a job, resume it with another specification, and check that no memory was taken twice."""
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory.create(Path(folder) / "run", "name: test\n")
        assert asyncio.run(run_job(spec, run, RunState(), faults or {}, seed)) == []
        assert [m["step"] for m in run.metrics()] == list(range(1, spec.steps + 1))
        if then is not None:
            state = RunState()
            recovery.roll_back_to_checkpoint(run, checkpoints_of(run, then), state)
            assert state.step == spec.steps
            assert asyncio.run(run_job(then, run, state, faults or {}, seed)) == []
            assert [m["step"] for m in run.metrics()] == list(range(1, then.steps + 1))


@pytest.mark.parametrize("method", ["reinforce", "supervised"])
def test_a_job_and_its_resumption(method):
    play(spec_of(method), then=spec_of(method, steps=3))


def test_a_warm_start():
    play(spec_of(warm_start={"questions": 4, "steps": 2, "batch_size": 2}))


@pytest.mark.parametrize("call", range(1, 60, 6))
@pytest.mark.parametrize("what", ["rollout-0", "learner"])
def test_a_loss_at_any_moment(call, what):
    play(spec_of(every=2), {call: what})


@settings(max_examples=12, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(
    method=st.sampled_from(["reinforce", "supervised"]),
    steps=st.integers(1, 3),
    every=st.integers(0, 2),
    faults=st.dictionaries(st.integers(1, 150), st.sampled_from(["rollout-0", "rollout-1", "learner"]), max_size=5),
    seed=st.integers(0, 1000),
)
def test_any_job_with_any_losses(method, steps, every, faults, seed):
    play(spec_of(method, steps, every), faults, then=spec_of(method, steps + 1, every), seed=seed)
