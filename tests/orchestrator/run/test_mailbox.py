"""Commands that are torn, hostile, many or sent twice; and those that no driver read."""

import json

import pytest

from orchestrator.run.commands import CommandError, CommandKind
from orchestrator.run.directory import RunDirectory
from orchestrator.run.events import PREEMPTION, EventKind
from orchestrator.run.files import COMMANDS
from orchestrator.run.history import history_of
from orchestrator.run.mailbox import Mailbox, send, settle
from orchestrator.run.records import RunDirectoryError


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path / "run", "name: test\n")


def failed(run):
    return {e["id"]: (e["command"], e["reason"]) for e in run.events() if e["kind"] == EventKind.COMMAND_FAILED}


def line(**fields):
    return json.dumps({"kind": "pause", "count": None, "id": "x", "by": "", **fields}).encode()


def test_a_command_after_a_torn_line_arrives(run):
    """A sender was killed while it wrote, or its disk was full."""
    (run.path / COMMANDS).write_bytes(line(id="whole") + b"\n" + line()[:20])
    sent = send(run, CommandKind.SCALE, count=3)
    assert [command.id for command in Mailbox(run).take()] == ["whole", sent]
    assert [e["line"] for e in run.events() if e["kind"] == "bad_command"] == [line()[:20].decode()]


@pytest.mark.parametrize(
    "bad",
    [
        b"[" * 100_000,
        line(id="x" * 10_000_000),
        line(by="x" * 10_000_000),
        line(kind=["pause"]),
        line(count=True),
        b'{"kind": "pause"' + b" " * 10_000_000 + b"x}",
        b"\xff\x00\xfe",
    ],
    ids=["deep", "long id", "long sender", "list", "bool", "10 MB", "bytes"],
)
def test_a_hostile_line_is_reported_once_and_hides_no_command(run, bad):
    (run.path / COMMANDS).write_bytes(bad + b"\n\n")
    sent = send(run, CommandKind.PAUSE)
    for _ in range(2):
        assert [command.id for command in Mailbox(run).take()] == [sent]
    (event,) = run.events()
    assert (event["kind"], len(json.dumps(event)) < 10_000) == ("bad_command", True)


def test_a_command_that_was_sent_twice_is_carried_out_once(run):
    for _ in range(2):
        assert send(run, CommandKind.SCALE, count=2, identifier="key-1") == "key-1"
    mailbox = Mailbox(run)
    assert [command.id for command in mailbox.take()] == ["key-1"]
    send(run, CommandKind.SCALE, count=2, identifier="key-1")
    assert mailbox.take() == []


def test_a_sender_with_a_long_name_is_refused(run):
    with pytest.raises(CommandError, match="200 characters"):
        send(run, CommandKind.PAUSE, by="x" * 201)
    assert not (run.path / COMMANDS).exists()


def test_what_nobody_did_is_settled_once(run):
    first, pause = send(run, CommandKind.CHECKPOINT), send(run, CommandKind.PAUSE)
    done = send(run, CommandKind.SCALE, count=2)
    for command in Mailbox(run).take():
        run.append_event("command", id=command.id, command=command.kind, count=command.count, by=command.by)
    late = send(run, CommandKind.SCALE, count=5)
    for _ in range(2):
        settle(run, "the job ended")
    assert failed(run) == {
        late: ("scale", "the job ended"),
        first: ("checkpoint", "the job ended"),
        pause: ("pause", "the job ended"),
    }
    history = history_of(run.events())
    assert (history.commands, history.failed) == ({first, pause, done, late}, {first, pause, late})
    # A job that is retried keeps its number of workers, and does not pause for what failed.
    assert (history.requested_workers, history.pause_requested, dict(history.due)) == (2, False, {})
    assert Mailbox(run).take() == []


def test_a_run_in_progress_is_not_settled(run):
    send(run, CommandKind.PAUSE)
    with run.lock(), pytest.raises(RunDirectoryError, match="another process"):
        settle(run, "the job ended")
    assert run.events() == []


def test_the_commands_of_a_preemption_end_with_its_driver(run):
    old = send(run, CommandKind.CHECKPOINT, by=PREEMPTION)
    kept = send(run, CommandKind.CHECKPOINT, by="ada")
    assert [command.id for command in Mailbox(run).take_first()] == [kept]
    assert failed(run).keys() == {old}


def test_a_pause_is_due_until_the_job_pauses_and_a_checkpoint_until_it_is_written():
    def event(kind, **fields):
        return {"kind": kind, "time": "t", **fields}

    def due(*events):
        return dict(history_of(events).due)

    pause = event("command", id="p", command="pause", count=None, by="ada")
    save = event("command", id="c", command="checkpoint", count=None, by="ada")
    other = event("command", id="v", command="checkpoint", count=None, by=PREEMPTION)
    attempt = event("attempt", submission_id="j-2", pid=1)
    assert due(pause, save) == {"p": "pause", "c": "checkpoint"}
    # Another driver has still to do both, but gives way to no one.
    assert due(pause, save, other, attempt) == {"p": "pause", "c": "checkpoint"}
    assert due(pause, event("state", state="paused")) == {}
    assert due(event("state", state="paused"), pause) == {}
    assert due(pause, event("command", id="r", command="resume", count=None, by="ada")) == {}
    # The checkpoint that was being written when the command came is another one.
    assert due(save, event("checkpoint", step=3, path="x", commands=[])) == {"c": "checkpoint"}
    assert due(save, event("checkpoint", step=4, path="x", commands=["c"])) == {}
