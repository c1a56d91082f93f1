"""Jobs that lose their learner ranks or the whole machine resume from the last checkpoint with identical results."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from integration.conftest import FAULTS, earshot, lines, timeless

from orchestrator.run.directory import RunDirectory

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2000)]


def steps(home: Path, last: int) -> list[dict]:
    return [timeless(m) for m in lines(home / "metrics.jsonl") if m["step"] <= last]


def samples(home: Path, last: int) -> list[dict]:
    return [s for s in lines(home / "samples.jsonl") if s["step"] <= last]


def weights(home: Path, step: int) -> bytes:
    return (home / "checkpoints" / f"step-{step}" / "model.safetensors").read_bytes()


def folders(repeated) -> tuple[Path, Path]:
    return Path(repeated["alone"]["run_dir"]), Path(repeated["killed"]["run_dir"])


def test_what_is_killed_changes_nothing(repeated):
    """SIGKILL of a rank during forward, publish, backward, save and step, and then of the whole job.

    The bytes are those of the undisturbed run.
    """
    alone, killed = folders(repeated)
    assert steps(alone, 3) == steps(killed, 3)
    assert samples(alone, 3) == samples(killed, 3)
    assert weights(alone, 3) == weights(killed, 3)
    assert (repeated["alone"]["restarts"], repeated["killed"]["restarts"]) == (0, len(FAULTS))


def test_no_question_is_lost_or_trained_twice(repeated):
    for name, drawn in (("alone", 18), ("killed", 24)):
        counts = dict(repeated[name]["questions"])
        assert counts.pop("drawn") == drawn == sum(counts.values())
        assert counts["in_flight"] == 0
        draws = Counter(s["draw"] for s in lines(Path(repeated[name]["run_dir"]) / "samples.jsonl"))
        assert draws == dict.fromkeys(range(drawn), 4)


def test_recovery_is_visible(repeated):
    events = RunDirectory(repeated["killed"]["run_dir"]).events()
    states = [e["state"] for e in events if e["kind"] == "state"]
    assert states[0] == "starting"
    assert states[-3:] == ["starting", "running", "succeeded"]
    assert states.count("recovering") == len(FAULTS)
    for before, after in pairwise(states):
        assert before != "recovering" or after in ("running", "starting")
    causes = [e["cause"] for e in events if e["kind"] == "state" and e["state"] == "recovering"]
    assert all("rank died" in cause for cause in causes), causes
    assert sum(e["kind"] == "resumed" for e in events) >= len(FAULTS)
    assert not [e for e in events if e["kind"] == "inputs_changed" or "not_compared" in e]


def test_nothing_of_a_torn_checkpoint_is_left(repeated):
    for home, last in zip(folders(repeated), (3, 4), strict=True):
        assert {p.name for p in (home / "checkpoints").iterdir()} == {f"step-{step}" for step in range(last + 1)}


def test_a_resumption_at_an_epochs_edge_trains_the_next_epoch(repeated):
    _, killed = folders(repeated)
    metrics, by_step = lines(killed / "metrics.jsonl"), Counter()
    assert [m["step"] for m in metrics] == [1, 2, 3, 4]
    assert [m["epoch"] for m in metrics] == [6 / 18, 12 / 18, 1, 24 / 18]
    for sample in lines(killed / "samples.jsonl"):
        by_step[sample["step"], sample["question_key"]] += 1
    first = [key for step, key in by_step if step <= 3]
    assert len(first) == len(set(first)) == 18
    assert len({key for step, key in by_step if step == 4}) == 6
    assert weights(killed, 3) != weights(killed, 4)


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
