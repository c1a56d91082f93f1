"""Commands reach a job completely, once, in order."""

import pytest

from orchestrator.run.commands import CommandError, CommandKind
from orchestrator.run.directory import RunDirectory
from orchestrator.run.files import COMMANDS
from orchestrator.run.mailbox import Mailbox, send


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
    path = run.path / COMMANDS
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert mailbox.take() == []
    path.write_bytes(whole)
    assert [c.kind for c in mailbox.take()] == ["pause"]


def test_commands_of_an_earlier_process_are_not_repeated(run):
    done = send(run, CommandKind.SCALE, count=1)
    send(run, CommandKind.SCALE, count=2)
    run.append_event("command", id=done, command="scale")
    assert [c.count for c in Mailbox(run).take()] == [2]


@pytest.mark.parametrize(
    ("kind", "count"), [(CommandKind.SCALE, None), (CommandKind.SCALE, -1), (CommandKind.PAUSE, 2)]
)
def test_an_invalid_command_is_refused_and_not_written(run, kind, count):
    with pytest.raises(CommandError):
        send(run, kind, count=count)
    assert not (run.path / COMMANDS).exists()


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
def test_a_line_that_is_not_a_command_is_reported_once_and_skipped(run, line):
    (run.path / COMMANDS).write_text(f"{line}\n")
    send(run, CommandKind.SCALE, count=2)
    assert [c.count for c in Mailbox(run).take()] == [2]
    assert [c.count for c in Mailbox(run).take()] == [2]
    assert [(e["line"], bool(e["problem"])) for e in run.events() if e["kind"] == "bad_command"] == [(line, True)]
