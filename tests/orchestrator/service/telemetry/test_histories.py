"""Histories of runs for the API, and their progress."""

from orchestrator.run.directory import RunDirectory
from orchestrator.service.telemetry.histories import RunHistories
from orchestrator.service.telemetry.progress import JobProgress


def test_workers_start_leave_and_are_lost(tmp_path):
    run, histories = RunDirectory.create(tmp_path / "run", "name: test\n"), RunHistories()
    assert histories.of(run.path).workers == {}
    run.append_event("state", state="starting")
    run.append_event("scaled", before=0, target=2, reason="the job starts")
    for i in range(2):
        run.append_event("worker_started", worker=f"rollout-{i}", node="n", pid=10 + i, weight_version=0)
    assert {w.name: (w.state, w.pid) for w in histories.of(run.path).workers.values()} == {
        "rollout-0": ("serving", 10),
        "rollout-1": ("serving", 11),
    }
    run.append_event("worker_lost", worker="rollout-1", node="n", pid=11, cause="it hung", requeued=3)
    run.append_event("worker_restart", worker="rollout-1", restart=1, seconds=1.0)
    run.append_event("worker_draining", worker="rollout-0", requests=0)
    found = histories.of(run.path)
    assert (found.target, found.workers["rollout-0"].state) == (2, "draining")
    lost = found.workers["rollout-1"]
    assert (lost.state, lost.restarts, lost.cause, lost.pid) == ("restarting", 1, "it hung", None)
    run.append_event("worker_left", worker="rollout-0")
    run.append_event("evaluation", step=3, result={"accuracy": 0.5})
    assert set(histories.of(run.path).workers) == {"rollout-1"}
    assert histories.of(run.path).evaluation == {"step": 3, "accuracy": 0.5}
    run.append_event("error", error="LearnerError", message="rank 0 died")
    run.append_event("state", state="failed")
    assert histories.of(run.path).workers == {}
    assert histories.of(run.path).error == "LearnerError: rank 0 died"
    run.append_event("state", state="starting")
    assert histories.of(run.path).error is None


def test_a_bad_line_hides_nothing(tmp_path):
    run, histories = RunDirectory.create(tmp_path / "run", "name: test\n"), RunHistories()
    (run.path / "events.jsonl").write_bytes(b"[]\nno\n")
    run.append_event("state", state="running")
    assert histories.of(run.path).state == "running"
    assert histories.of(run.path).counts["unreadable"] == 2


def test_the_last_step(tmp_path):
    run, progress = RunDirectory.create(tmp_path / "run", "name: test\n"), JobProgress()
    assert progress.of(run.path) is None
    run.append_metrics({"step": 1, "reward/mean": 0.5, "kl/ref": None})
    assert progress.of(run.path).metrics == {"reward/mean": 0.5}
    run.append_metrics({"step": 2})
    assert progress.of(run.path).step == 2
