"""A job on a cluster of several nodes whose workers are killed and stopped, which loses a node and its reward actor.

`make chaos` disturbs it for five minutes; EARSHOT_CHAOS_SECONDS is another time. `make test` leaves it out.
"""

import json
import os
import random
import signal
import time
from pathlib import Path

import psutil
import pytest
from integration.conftest import EARSHOT, end, start_earshot

from orchestrator.run.directory import RunDirectory

SECONDS = float(os.environ.get("EARSHOT_CHAOS_SECONDS", "0"))
STEPS = max(20, int(SECONDS))
QUESTIONS, GROUP = 6, 4
BETWEEN = (3.0, 7.0)
LONGEST_SILENCE = 180.0
"""Longest time without a step: no deadline of the job with its back-offs is longer."""
LIMITS = {
    "start_seconds": 150,
    "request_seconds": 30,
    "update_seconds": 30,
    "lag_seconds": 3,
    "silent_seconds": 5,
    "attempts": 1000,
    "max_restarts": 10_000,
}

pytestmark = [
    pytest.mark.timeout(int(300 + 4 * SECONDS)),
    pytest.mark.skipif(not SECONDS, reason="takes minutes: make chaos"),
]


@pytest.fixture(scope="module")
def nodes():
    from ray.cluster_utils import Cluster

    options = {"include_dashboard": False, "object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **options})
    yield cluster, lambda: cluster.add_node(num_cpus=2, object_store_memory=100_000_000)
    cluster.shutdown()


def shared_memory() -> set[str]:
    """Return the shared-memory segments that do not belong to the object stores."""
    return {path.name for path in Path("/dev/shm").iterdir() if "plasma" not in path.name}


def command(process: psutil.Process) -> str:
    """Return the command line; empty for a process that has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def of_the_job(since: float) -> list[str]:
    """Return workers, engines, ranks and reward actors started since then, whatever their parent is now."""
    titles = ("RolloutWorker", "VLLM", "EngineCore", "LearnerActor", "RewardActor")
    started = [p for p in psutil.process_iter(["create_time", "status"]) if p.info["create_time"] > since]
    found = [(p.info["status"], command(p)) for p in started]
    return [line for status, line in found if any(t in line for t in titles) and status != psutil.STATUS_ZOMBIE]


class Disturber:
    """Kill and stop processes of one job."""

    def __init__(self, run: RunDirectory, seed: int) -> None:
        self._run, self._random = run, random.Random(seed)
        self.done: list[str] = []

    def disturb(self) -> None:
        """Kill or stop a random worker that serves, or its engine."""
        serving = {e["worker"]: e["pid"] for e in self._run.events() if e["kind"] == "worker_started"}
        actors = [psutil.Process(pid) for pid in serving.values() if psutil.pid_exists(pid)]
        actors = [actor for actor in actors if actor.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)]
        if not actors:
            return
        actor = self._random.choice(actors)
        victim = self._random.choice([actor, *actor.children(recursive=True)])
        how = self._random.choice([signal.SIGKILL, signal.SIGSTOP])
        what = "actor" if victim == actor else "engine"
        try:
            victim.send_signal(how)
        except psutil.NoSuchProcess:
            return
        self.done.append(f"{how.name} {what}")

    def kill_reward(self, cluster_processes: list[psutil.Process]) -> None:
        (actor,) = [p for p in cluster_processes if "ray::RewardActor" in command(p)]
        actor.kill()
        self.done.append("reward")


@pytest.fixture(scope="module")
def disturbed(nodes, job_file, tmp_path_factory):
    cluster, add_node = nodes
    folder = tmp_path_factory.mktemp("chaos")
    segments, before = shared_memory(), time.time()
    spare = [add_node(), add_node()]
    job = job_file(
        folder,
        steps=STEPS,
        data={"evaluation": None},
        rollout={
            "workers": 3,
            "group_size": GROUP,
            "questions_per_step": QUESTIONS,
            "max_staleness": 1,
            "limits": LIMITS,
            "weight_checksums": True,
        },
        learner={"max_restarts": 100, "timeout_seconds": 60},
        reward={"max_restarts": 100},
        checkpoint={"every": 5, "keep_last": 2},
        cluster={"address": cluster.address},
    )
    home = folder / "run"
    process = start_earshot("run", job, "--json", "--run-dir", home, stderr=folder / "stderr.txt", command=(EARSHOT,))
    here = psutil.Process()
    try:
        deadline = time.monotonic() + 300
        while not (home / "metrics.jsonl").exists():
            assert process.poll() is None, (folder / "stderr.txt").read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.2)
        running = " ".join(of_the_job(before))
        assert all(title in running for title in ("RolloutWorker", "LearnerActor", "RewardActor")), running
        assert "EngineCore" in running or "VLLM" in running, running
        run = RunDirectory(home)
        disturber, begun = Disturber(run, seed=0), time.monotonic()
        due = [(SECONDS / 4, "node"), (SECONDS / 2, "reward"), (SECONDS * 0.6, "back")]
        last, longest, seen = time.monotonic(), 0.0, 0
        next_one = begun
        while process.poll() is None:
            now = time.monotonic()
            if (steps := len(run.metrics())) != seen:
                longest, last, seen = max(longest, now - last), now, steps
            assert now - last < LONGEST_SILENCE, f"no step for {now - last:.0f} s: {run.events()[-10:]}"
            if due and now - begun > due[0][0]:
                what = due.pop(0)[1]
                if what == "node":
                    cluster.remove_node(spare[0], allow_graceful=False)
                    disturber.done.append("node")
                elif what == "reward":
                    disturber.kill_reward(here.children(recursive=True))
                else:
                    add_node()
            elif now > next_one and now - begun < SECONDS:
                disturber.disturb()
                next_one = now + random.Random(now).uniform(*BETWEEN)
            time.sleep(0.2)
        stdout = process.stdout.read()
        assert process.returncode == 0, (folder / "stderr.txt").read_text()[-3000:]
        left = of_the_job(before)
        yield (
            json.loads(stdout),
            run,
            disturber.done,
            {
                "longest": longest,
                "left": left,
                "segments": shared_memory() - segments,
            },
        )
    finally:
        end(process)


def test_the_run_ends_and_the_ledger_adds_up(disturbed):
    summary, run, done, seen = disturbed
    print(f"{len(done)} disturbances {done}, longest time without a step {seen['longest']:.0f} s")
    assert (summary["state"], summary["steps"]) == ("succeeded", STEPS)
    counts = dict(summary["questions"])
    assert counts.pop("drawn") == STEPS * QUESTIONS == sum(counts.values())
    assert counts["in_flight"] == 0
    assert [m["step"] for m in run.metrics()] == list(range(1, STEPS + 1))


def test_no_question_is_trained_twice(disturbed):
    _, run, _, _ = disturbed
    draws = [sample["draw"] for sample in run.samples()]
    assert len(draws) == len(set(draws)) * GROUP


def test_what_happened_is_shown(disturbed):
    _summary, run, done, _ = disturbed
    kinds = [e["kind"] for e in run.events()]
    assert len(done) >= 2 + SECONDS / (2 * BETWEEN[1])
    assert {"node", "reward"} <= set(done)
    assert kinds.count("reward_restarted") >= 1
    assert kinds.count("worker_lost") >= len(done) // 2
    assert kinds.count("worker_restart") >= len(done) // 2


def test_nothing_is_left_behind(disturbed):
    """Checks run after the job's driver has ended, with the cluster still up."""
    _, _, _, seen = disturbed
    assert not seen["left"]
    assert not seen["segments"]
