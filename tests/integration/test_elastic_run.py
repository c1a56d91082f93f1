"""`earshot scale`, `pause`, `resume`, `checkpoint` on a running asynchronous job, on the real parts."""

import json
from typing import Any

import pytest
from integration.conftest import earshot, end, start_earshot, wait_for

from orchestrator.run.directory import RunDirectory

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

STEPS = 120
"""Twice the number of steps that pass while three engines load, and then two more."""


class Job:
    """A job in its own process, and the events seen so far."""

    def __init__(self, process, home):
        self.process, self.home, self.run = process, home, RunDirectory(home)

    def steps(self) -> int:
        return len(self.run.metrics())

    def wait(self, condition, seconds=400) -> None:
        wait_for(condition, self.process, seconds)

    def tell(self, *arguments: object) -> None:
        command, *rest = arguments
        done = earshot(command, self.home, *rest, "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        self.wait(lambda: any(e.get("id") == told["id"] for e in self.events("command")), 60)

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [e for e in self.run.events() if e["kind"] == kind]

    def started(self, name: str) -> bool:
        return any(e["worker"] == name for e in self.events("worker_started"))


@pytest.fixture(scope="module")
def scaled(job_file, tmp_path_factory):
    """Run a job that is scaled 1 → 4 → 0 → 2, paused and asked for a checkpoint, and record what happens."""
    folder = tmp_path_factory.mktemp("scaled")
    job = job_file(
        folder,
        steps=STEPS,
        data={"evaluation": None},
        rollout={"workers": 1, "max_staleness": 2, "group_size": 8, "questions_per_step": 8},
    )
    home, seen = folder / "run", {}
    process = start_earshot("run", job, "--json", "--run-dir", home, stderr=folder / "stderr.txt")
    try:
        wait_for((home / "events.jsonl").exists, process, 120)
        running = Job(process, home)
        running.wait(lambda: running.steps() >= 2)

        running.tell("scale", 4)
        before = running.steps()
        running.wait(lambda: running.started("rollout-3"))
        seen["steps while three load"] = running.steps() - before
        at = running.steps()
        running.wait(lambda: running.steps() >= at + 6)

        running.tell("scale", 0)
        running.wait(lambda: len(running.events("worker_left")) == 4)
        # Groups that were already generated are still trained on.
        running.wait(lambda: running.run.metrics()[-1]["workers/alive"] == 0)
        seen["idle at"] = running.steps()

        running.tell("scale", 2)
        running.wait(lambda: running.steps() >= seen["idle at"] + 4)

        running.tell("checkpoint")
        running.wait(lambda: running.events("checkpoint"))
        running.tell("pause")
        running.wait(lambda: any(e["state"] == "paused" for e in running.events("state")))
        seen["paused at"] = running.steps()
        running.tell("resume")
        stdout, _ = process.communicate(timeout=600)
    finally:
        end(process)
    assert process.returncode == 0, (folder / "stderr.txt").read_text()[-3000:]
    return json.loads(stdout), running, seen


def test_the_run_has_all_its_steps_and_the_ledger_adds_up(scaled):
    summary, running, _ = scaled
    assert (summary["state"], summary["steps"]) == ("succeeded", STEPS)
    counts = dict(summary["questions"])
    drawn = counts.pop("drawn")
    assert drawn == STEPS * 8 == sum(counts.values())
    assert counts["in_flight"] == 0
    draws = [sample["draw"] for sample in running.run.samples()]
    assert sorted(set(draws)) == list(range(STEPS * 8))
    assert all(draws.count(draw) == 8 for draw in (0, STEPS, STEPS * 8 - 1))


def test_no_step_learns_from_weights_older_than_the_bound(scaled):
    _, running, _ = scaled
    for sample in running.run.samples():
        assert 0 <= sample["learner_version"] - sample["weight_version"] <= 2
    staleness = [m["staleness/max"] for m in running.run.metrics()]
    assert max(staleness) == 2
    assert all(m["groups/stale"] == 0 for m in running.run.metrics())


def test_nobody_waits_for_a_worker_that_loads(scaled):
    """An engine takes several seconds to load, more next to three others; steps take less."""
    _, running, seen = scaled
    assert seen["steps while three load"] >= 2
    started = {e["worker"]: e for e in running.events("worker_started")}
    scaled_up = next(e for e in running.events("scaled") if e["target"] == 4)
    for worker in ("rollout-1", "rollout-2", "rollout-3"):
        assert started[worker]["time"] > scaled_up["time"]
    # Each worker took the newest weights before its first request.
    assert started["rollout-3"]["weight_version"] > 2


def test_the_work_follows_the_count(scaled):
    _, running, _seen = scaled
    workers: dict[int, set[str]] = {}
    for sample in running.run.samples():
        workers.setdefault(sample["step"], set()).add(sample["worker"])
    alive = {m["step"]: m["workers/alive"] for m in running.run.metrics()}
    assert {1, 4, 0, 2} <= set(alive.values())
    assert workers[1] == {"rollout-0"}
    assert max(len(names) for step, names in workers.items() if alive[step] == 4) >= 3
    assert workers[STEPS] <= {"rollout-0", "rollout-1"}
    assert [e["target"] for e in running.events("scaled")] == [1, 4, 0, 2]
    assert all(e["reason"] for e in running.events("scaled"))


def test_a_paused_job_waits_and_a_checkpoint_is_written_when_asked(scaled):
    _, running, seen = scaled
    states = [e["state"] for e in running.events("state")]
    assert states == ["starting", "running", "paused", "running", "succeeded"]
    assert seen["idle at"] < running.events("checkpoint")[0]["step"] <= seen["paused at"]


def test_a_job_that_does_not_run_cannot_be_told_anything(scaled):
    _, running, _ = scaled
    done = earshot("scale", running.home, 3)
    assert done.returncode == 2
    assert "no process runs this job" in done.stderr
    assert not (running.home / "commands.jsonl").read_text().endswith("3}\n")
