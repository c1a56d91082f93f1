"""Jobs that lose their learner ranks, or the whole machine, go on from the last checkpoint as if nothing happened."""

import os
import signal
from collections import Counter
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
import yaml
from integration.conftest import FAULTS, earshot, end, lines, start_earshot, timeless, wait_for

from orchestrator.run_directory import RunDirectory

pytestmark = pytest.mark.timeout(600)


def steps(home: Path, last: int) -> list[dict]:
    return [timeless(m) for m in lines(home / "metrics.jsonl") if m["step"] <= last]


def samples(home: Path, last: int) -> list[dict]:
    return [s for s in lines(home / "samples.jsonl") if s["step"] <= last]


def weights(home: Path, step: int) -> bytes:
    return (home / "checkpoints" / f"step-{step}" / "model.safetensors").read_bytes()


def test_killed_ranks_change_nothing(repeated):
    """SIGKILL in mid-forward, -publish, -backward, -save and -step: the same bytes as the run that was left alone."""
    alone, killed = (Path(repeated[name]["run_dir"]) for name in ("alone", "killed"))
    assert (alone / "samples.jsonl").read_bytes() == (killed / "samples.jsonl").read_bytes()
    assert steps(alone, 3) == steps(killed, 3)
    assert weights(alone, 3) == weights(killed, 3)
    assert repeated["killed"]["questions"] == repeated["alone"]["questions"]
    assert (repeated["alone"]["restarts"], repeated["killed"]["restarts"]) == (0, len(FAULTS))


def test_recovery_is_visible(repeated):
    events = RunDirectory(repeated["killed"]["run_dir"]).events()
    states = [e["state"] for e in events if e["kind"] == "state"]
    assert states[0] == "starting"
    assert states[-1] == "succeeded"
    assert states.count("recovering") == len(FAULTS)
    for before, after in pairwise(states):
        assert before != "recovering" or after == "running"
    causes = [e["cause"] for e in events if e["kind"] == "state" and e["state"] == "recovering"]
    assert all("rank died" in cause for cause in causes), causes


def test_nothing_of_a_torn_checkpoint_is_left(repeated):
    for summary in repeated.values():
        names = {p.name for p in (Path(summary["run_dir"]) / "checkpoints").iterdir()}
        assert names == {"step-0", "step-1", "step-2", "step-3"}


@pytest.fixture(scope="module")
def resumed(repeated, tmp_path_factory) -> Path:
    """The same job once more, killed as a whole behind its first checkpoint, and resumed into the next epoch."""
    folder = tmp_path_factory.mktemp("resumed")
    job, home = Path(repeated["alone"]["run_dir"]) / "job.yaml", folder / "run"
    process = start_earshot("run", job, "--run-dir", home, stderr=folder / "stderr.txt")
    try:
        wait_for((home / "checkpoints" / "step-1").exists, process, 200)
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for member in family:
            os.kill(member.pid, signal.SIGKILL)
        psutil.wait_procs(family, timeout=10)
    finally:
        end(process)
    longer = folder / "longer.yaml"
    longer.write_text(yaml.safe_dump(yaml.safe_load(job.read_text()) | {"steps": 4}))
    result = earshot("run", longer, "--resume", "--run-dir", home, "--json")
    assert result.returncode == 0, result.stderr[-3000:]
    return home


def test_a_resumed_run_is_the_one_that_was_never_stopped(repeated, resumed):
    alone = Path(repeated["alone"]["run_dir"])
    assert [m["step"] for m in lines(resumed / "metrics.jsonl")] == [1, 2, 3, 4]
    assert steps(resumed, 3) == steps(alone, 3)
    assert samples(resumed, 3) == samples(alone, 3)
    assert weights(resumed, 3) == weights(alone, 3)


def test_a_resumption_at_an_epochs_edge_trains_the_next_epoch(resumed):
    metrics, by_step = lines(resumed / "metrics.jsonl"), Counter()
    assert [m["epoch"] for m in metrics] == [6 / 18, 12 / 18, 1, 24 / 18]
    for sample in lines(resumed / "samples.jsonl"):
        by_step[sample["step"], sample["question_key"]] += 1
    first = [key for step, key in by_step if step <= 3]
    assert len(first) == len(set(first)) == 18
    assert len({key for step, key in by_step if step == 4}) == 6
    assert weights(resumed, 3) != weights(resumed, 4)


def test_a_finished_run_says_that_there_is_nothing_to_resume(repeated):
    home = repeated["alone"]["run_dir"]
    before = sorted(p.stat().st_mtime_ns for p in Path(home).rglob("*"))
    result = earshot("run", "--resume", "--run-dir", home, timeout=60)
    assert result.returncode == 2
    assert "has done its 3 steps" in result.stderr
    assert "raise steps" in result.stderr
    assert sorted(p.stat().st_mtime_ns for p in Path(home).rglob("*")) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"learner": {"beta": 0.5}}, ["learner.beta", "was 0.04", "is 0.5"]),
        ({"seed": 6}, ["seed"]),
        ({"rollout": {"workers": 1}}, ["rollout.workers"]),
        ({"learner": {"lora": {"rank": 4, "alpha": 8}}}, ["learner.lora", "was None"]),
    ],
    ids=str,
)
def test_another_job_is_not_resumed_and_the_fields_are_named(repeated, tmp_path, change, words):
    home = repeated["alone"]["run_dir"]
    job = yaml.safe_load((Path(home) / "job.yaml").read_text())
    for section, values in change.items():
        job[section] = {**job[section], **values} if isinstance(values, dict) else values
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(job | {"steps": 9}))
    result = earshot("run", other, "--resume", "--run-dir", home, timeout=60)
    assert result.returncode == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("earshot: ")]
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--resume"], "--run-dir"), ([], "job file"), (["--resume", "--run-dir", "nowhere"], "job.yaml")],
)
def test_a_resumption_of_nothing_is_refused(arguments, words):
    result = earshot("run", *arguments, timeout=60)
    assert result.returncode == 2
    assert words in result.stderr
