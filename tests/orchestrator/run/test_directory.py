import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio_qa.prompt import PromptTemplate
from audio_qa.question import Question
from orchestrator.run.directory import RunDirectory
from orchestrator.run.metrics import METRIC_NAMES
from orchestrator.run.records import RunDirectoryError, current_steps, json_text
from orchestrator.run.samples import group_samples
from protocol.reward import Score
from protocol.rollout import Completion, Group, StopReason

JOB = "name: test\nsteps: 3\n"


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", JOB)


def test_a_new_run_contains_only_its_job_file(run: RunDirectory) -> None:
    assert [path.name for path in run.path.iterdir()] == ["job.yaml"]
    assert run.job_file.read_text() == JOB
    assert (run.metrics(), list(run.samples()), run.events(), run.summary()) == ([], [], [], None)
    assert run.checkpoint(7) == run.path / "checkpoints" / "step-7"


def test_rolling_back_removes_later_lines(run: RunDirectory) -> None:
    run.append_metrics({"step": 1})
    run.append_event("state", state="running")
    before = run.offsets()
    run.append_metrics({"step": 2})
    (run.path / "samples.jsonl").write_text('{"step": 2}\n')
    (run.path / "evaluated.jsonl").write_text('{"step": 2}\n')
    run.roll_back(before)
    assert list(run.evaluated()) == []
    assert run.metrics() == [{"step": 1}]
    assert list(run.samples()) == []
    assert len(run.events()) == 1
    run.append_metrics({"step": 2})
    assert [m["step"] for m in run.metrics()] == [1, 2]


def test_one_process_writes_a_run(run: RunDirectory) -> None:
    with run.lock(), pytest.raises(RunDirectoryError, match="another process"), RunDirectory(run.path).lock():
        pass
    with run.lock():
        pass


def test_an_empty_directory_is_accepted(tmp_path: Path) -> None:
    assert RunDirectory.create(tmp_path, JOB).job_file.is_file()


@pytest.mark.parametrize("what", ["a run", "other files", "file", "nothing"])
def test_other_paths_are_refused_in_one_line(tmp_path: Path, what: str) -> None:
    path = tmp_path / "there"
    if what == "file":
        path.write_text("x")
    elif what != "nothing":
        path.mkdir()
        (path / ("job.yaml" if what == "a run" else "notes.txt")).write_text("name: other\n")
    with pytest.raises(RunDirectoryError) as caught:
        RunDirectory(path) if what == "nothing" else RunDirectory.create(path, JOB)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_metrics_keep_the_order_of_their_names(run: RunDirectory) -> None:
    run.append_metrics({"loss/zeta": 1.0, **dict.fromkeys(reversed(METRIC_NAMES), 0.5), "loss/alpha": 2.0, "step": 3.0})
    line = (run.path / "metrics.jsonl").read_text()
    assert list(json.loads(line)) == [*METRIC_NAMES, "loss/alpha", "loss/zeta"]
    assert line.startswith('{"step": 3, "epoch": 0.5,')


def test_metrics_need_a_step(run: RunDirectory) -> None:
    for step in (None, 1.5):
        with pytest.raises(ValueError, match="step"):
            run.append_metrics({"step": step})


def test_numbers_that_are_not_finite_become_null(run: RunDirectory) -> None:
    run.append_metrics({"step": 1, "kl/ref": float("nan"), "entropy": float("inf"), "reward/mean": np.float32(0.5)})
    assert run.metrics() == [{"step": 1, "reward/mean": 0.5, "kl/ref": None, "entropy": None}]
    assert "NaN" not in (run.path / "metrics.jsonl").read_text()


def test_steps_repeated_after_a_resumption_replace_the_old_ones(run: RunDirectory) -> None:
    for step, mean in ((1, 0.1), (2, 0.2), (3, 0.3), (2, 0.5)):
        run.append_metrics({"step": step, "reward/mean": mean})
        run.append_event("evaluation", step=step, result={"accuracy": mean})
    assert run.metrics() == [{"step": 1, "reward/mean": 0.1}, {"step": 2, "reward/mean": 0.5}]
    assert run.evaluations() == [(1, {"accuracy": 0.1}), (2, {"accuracy": 0.5})]
    assert len(run.events()) == 4


@given(st.lists(st.integers(0, 9)))
def test_current_steps_ascend_and_end_with_the_last(steps: list[int]) -> None:
    kept = [record["step"] for record in current_steps({"step": step} for step in steps)]
    assert kept == sorted(set(kept))
    assert kept[-1:] == steps[-1:]


def test_samples_of_a_group(run: RunDirectory) -> None:
    question = Question("train", 4, "q4", "/clips/4.wav", "What is heard?", ("a dog", "a cat"), "a dog")
    completions = (
        Completion((1, 2), (-0.1, -0.2), "a dog\nzeile \u2028 \x00 “ü”", StopReason.STOP),
        Completion((1, 3), (-0.1, -0.3), "\ud800", StopReason.LENGTH),
    )
    group = Group(question, PromptTemplate.ANSWER, (5,), completions, 6, "rollout-0")
    scores = [Score({"format": 1.0, "accuracy": 1.0}, 2.0), Score({}, 0.0, "timed out")]
    run.append_samples(group_samples(group, scores, [0.7, None], draw=9, step=8, learner_version=7))
    first, second = run.samples()
    assert first == {
        "step": 8,
        "question_key": "train:4",
        "draw": 9,
        "question": "What is heard?",
        "choices": ["a dog", "a cat"],
        "answer": "a dog",
        "audio": "/clips/4.wav",
        "text": "a dog\nzeile \u2028 \x00 “ü”",
        "rewards": {"accuracy": 1.0, "format": 1.0},
        "reward": 2.0,
        "advantage": 0.7,
        "valid": True,
        "error": None,
        "stop_reason": "stop",
        "weight_version": 6,
        "learner_version": 7,
        "worker": "rollout-0",
    }
    assert second["text"] == "\ud800"
    assert (second["reward"], second["advantage"], second["valid"], second["error"]) == (None, None, False, "timed out")


def test_scores_must_match_the_completions() -> None:
    question = Question("train", 4, "q4", "/clips/4.wav", "What is heard?", ("a dog", "a cat"), "a dog")
    group = Group(question, PromptTemplate.ANSWER, (5,), (), 6, "rollout-0")
    with pytest.raises(ValueError, match="zip"):
        group_samples(group, [Score({}, 0.0)], [0.0], draw=0, step=1, learner_version=0)


def test_events_have_their_time(run: RunDirectory) -> None:
    run.append_event("scaled", workers=3, by="rest")
    (event,) = run.events()
    assert list(event) == ["time", "kind", "workers", "by"]
    assert event["time"].endswith("+00:00")
    with pytest.raises(ValueError, match="time"):
        run.append_event("scaled", time=3)


def test_a_torn_last_line_is_skipped_reported_and_removed(run: RunDirectory) -> None:
    run.append_metrics({"step": 1})
    path = run.path / "metrics.jsonl"
    with path.open("ab") as file:
        file.write(b'{"step": 2, "epo')
    again = RunDirectory(run.path)
    assert again.metrics() == [{"step": 1}]
    assert again.torn() == ("metrics.jsonl",)
    again.append_metrics({"step": 2})
    assert again.metrics() == [{"step": 1}, {"step": 2}]
    assert again.torn() == ()
    (event,) = again.events()
    assert (event["kind"], event["file"], event["bytes"]) == ("torn_line", "metrics.jsonl", 16)


def test_a_file_that_is_one_long_torn_line(run: RunDirectory) -> None:
    (run.path / "events.jsonl").write_bytes(b"x" * 200_000)
    run.append_event("state", state="running")
    assert [event["kind"] for event in run.events()] == ["torn_line", "state"]


@pytest.mark.parametrize("line", ["{oops}", '{"a": NaN}', "[1]", '{"a": "\\u00', "\xff"])
def test_an_error_names_the_line_that_is_not_an_object(run: RunDirectory, line: str) -> None:
    (run.path / "events.jsonl").write_bytes(b'{"kind": "state"}\n' + line.encode("latin-1") + b"\n")
    with pytest.raises(RunDirectoryError, match=r"events\.jsonl.*line 2"):
        run.events()


def test_a_full_disk_leaves_complete_lines(run: RunDirectory) -> None:
    """A limit on file sizes stands for the full disk."""
    program = f"""
import resource, signal
from orchestrator.run.directory import RunDirectory
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
run = RunDirectory({str(run.path)!r})
while True:
    run.append_event("state", state="running")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "OSError" in done.stderr
    assert run.torn() == ()
    assert len(run.events()) > 5


def test_a_killed_writer_leaves_complete_lines(run: RunDirectory) -> None:
    program = f"""
from orchestrator.run.directory import RunDirectory
run = RunDirectory({str(run.path)!r})
print("ready", flush=True)
for number in range(10**9):
    run.append_event("scaled", number=number, padding="x" * 5000)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            while len(run.events()) < 20:
                assert process.poll() is None
        finally:
            os.kill(process.pid, signal.SIGKILL)
    events = run.events()
    assert [event["number"] for event in events] == list(range(len(events)))


def test_the_summary_is_replaced_atomically(run: RunDirectory) -> None:
    run.write_summary({"state": "running"})
    run.write_summary({"state": "succeeded", "final_accuracy": float("nan")})
    assert run.summary() == {"state": "succeeded", "final_accuracy": None}
    assert sorted(path.name for path in run.path.iterdir()) == ["job.yaml", "summary.json"]


def test_json_refuses_other_objects() -> None:
    with pytest.raises(TypeError):
        json_text({"a": object()})


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON_VALUES)
def test_json_text_is_strict_one_line_and_stable(value: object) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = json_text(value)
    assert "\n" not in text
    text.encode()
    assert json_text(json.loads(text, parse_constant=refuse)) == text
