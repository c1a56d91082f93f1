"""The fold of a run's events: pure, incremental, and tolerant of what it does not know."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.run.directory import RunDirectory
from orchestrator.run.events import PREEMPTION, EventKind
from orchestrator.run.history import UNREADABLE, HistoryReader, RunHistory, fold, history_of
from orchestrator.run.records import RunDirectoryError


def event(kind, **fields):
    return {"time": "2026-01-01T00:00:00.000+00:00", "kind": str(kind), **fields}


def command(identifier, kind, count=None, by=""):
    return event(EventKind.COMMAND, id=identifier, command=kind, count=count, by=by)


def test_commands_are_remembered_for_the_next_driver():
    history = history_of(
        [
            command("a", "scale", 3, "anna"),
            command("b", "pause"),
            command("c", "resume", by=PREEMPTION),
            command("d", "scale", 1, PREEMPTION),
            event(EventKind.BAD_COMMAND, line="x", problem="y"),
        ]
    )
    assert (history.requested_workers, history.pause_requested) == (3, True)
    assert (history.commands, history.refused) == (frozenset("abcd"), frozenset("x"))
    history = fold(history, [command("e", "resume")])
    assert not history.pause_requested


def test_attempts_and_recoveries_are_counted():
    states = [event(EventKind.STATE, state=state) for state in ("starting", "running", "recovering", "running")]
    first = event(EventKind.ATTEMPT, submission_id="j-1", pid=7)
    history = history_of([first, *states, first | {"submission_id": "j-2"}, *states])
    assert (history.attempts, history.recoveries, history.submission_id) == (2, 2, "j-2")
    assert history.counts == {"attempt": 2, "state": 8}


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
fields = ["state", "id", "command", "count", "by", "step", "result", "worker", "target", "pid", "error", "line"]


@given(
    st.lists(
        st.fixed_dictionaries(
            {"kind": st.sampled_from([*map(str, EventKind), "new"]) | anything},
            optional=dict.fromkeys(fields, anything),
        )
    )
)
def test_no_event_can_break_the_fold(events):
    history, folded = RunHistory(), [RunHistory()]
    for found in events:
        before = repr(history)
        after = fold(history, [found])
        assert repr(history) == before, "fold changes nothing"
        history = after
        folded.append(history)
    assert history_of(events) == folded[-1]
    assert sum(history.counts.values()) == len(events)


@pytest.mark.parametrize("strict", [True, False])
def test_a_reader_folds_new_events_and_starts_over(tmp_path, strict):
    run = RunDirectory.create(tmp_path / "run", "name: test\n")
    reader = HistoryReader(run.path, strict=strict)
    assert reader.read() == RunHistory()
    run.append_event(EventKind.STATE, state="running")
    run.append_event(EventKind.SCALED, before=0, target=2, reason="the job starts")
    assert (reader.read().state, reader.read().target) == ("running", 2)
    (run.path / "events.jsonl").write_text(json.dumps(event(EventKind.STATE, state="starting")) + "\n")
    assert reader.read().counts == {"state": 1}
    (run.path / "events.jsonl").unlink()
    assert reader.read() == RunHistory()


def test_a_damaged_line_is_an_error_or_is_counted(tmp_path):
    run = RunDirectory.create(tmp_path / "run", "name: test\n")
    (run.path / "events.jsonl").write_bytes(b'{"kind": "state", "state": "running"}\n\xff\n[]\n')
    history = HistoryReader(run.path, strict=False).read()
    assert (history.state, history.counts[UNREADABLE]) == ("running", 2)
    reader = HistoryReader(run.path, strict=True)
    for _ in range(2):
        with pytest.raises(RunDirectoryError, match="not an event"):
            reader.read()
