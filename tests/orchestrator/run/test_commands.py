"""Commands reach a job whole, once, in order."""

import pytest

from orchestrator.run.commands import FILE, CommandError, CommandKind, Mailbox, send
from orchestrator.run.directory import RunDirectory


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path / "run", "name: test\n")


def test_commands_come_in_order_and_once(run):
    mailbox = Mailbox(run)
    assert mailbox.take() == []
    first = send(run, CommandKind.SCALE, count=3, by="me")
    send(run, CommandKind.PAUSE)
    taken = mailbox.take()
    assert [(c.kind, c.count) for c in taken] == [("scale", 3), ("pause", None)]
    assert (taken[0].id, taken[0].by) == (first, "me")
    assert mailbox.take() == []


def test_a_line_that_is_being_written_waits(run):
    mailbox = Mailbox(run)
    send(run, CommandKind.PAUSE)
    path = run.path / FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert mailbox.take() == []
    path.write_bytes(whole)
    assert [c.kind for c in mailbox.take()] == ["pause"]


def test_what_an_earlier_process_did_is_not_done_again(run):
    done = send(run, CommandKind.SCALE, count=1)
    send(run, CommandKind.SCALE, count=2)
    run.append_event("command", id=done, command="scale")
    assert [c.count for c in Mailbox(run).take()] == [2]


@pytest.mark.parametrize(
    ("kind", "count"), [(CommandKind.SCALE, None), (CommandKind.SCALE, -1), (CommandKind.PAUSE, 2)]
)
def test_nonsense_is_refused_and_not_written(run, kind, count):
    with pytest.raises(CommandError):
        send(run, kind, count=count)
    assert not (run.path / FILE).exists()


@pytest.mark.parametrize(
    "line",
    [
        "no JSON",
        "[1]",
        '{"kind": "scale"}',
        '{"kind": "fly", "count": null, "id": "1", "by": ""}',
        '{"kind": "scale", "count": null, "id": "1", "by": ""}',
        '{"kind": "scale", "count": "three", "id": "1", "by": ""}',
    ],
)
def test_a_line_that_is_no_command_is_shown_once_and_the_next_is_heard(run, line):
    (run.path / FILE).write_text(f"{line}\n")
    send(run, CommandKind.SCALE, count=2)
    assert [c.count for c in Mailbox(run).take()] == [2]
    assert [c.count for c in Mailbox(run).take()] == [2]
    assert [(e["line"], bool(e["problem"])) for e in run.events() if e["kind"] == "bad_command"] == [(line, True)]
