"""Tables at every width: ids, states and names of workers are whole; outside of a terminal everything is."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console
from support.service import Threaded

from orchestrator.cli.results import show_comparison, show_evaluation
from orchestrator.cli.service.account import _audit_table
from orchestrator.cli.service.tables import job_facts, jobs_table, metrics_table, samples_table, workers_table
from orchestrator.display.table import Column, Facts, Table, figure, fit, key, show, text
from orchestrator.schemas.about import AuditView
from orchestrator.schemas.api import (
    JobDetail,
    MetricsView,
    ProgressView,
    SampleView,
    WaitingView,
    WorkerCount,
    WorkerView,
)
from orchestrator.schemas.job_state import JobState
from orchestrator.service.store.access import Role
from orchestrator.service.store.database import sqlite_url

EARSHOT = Path(sys.executable).parent / "earshot"
WIDTHS = (40, 60, 80, 100, 200)
NOW = datetime.now(UTC)
NAMES = [
    "n" * 63,
    "日本語の名前" * 10,
    "🎉👩\u200d🚀" * 9,
    "مرحبا بالعالم " * 5,
    "a\n\x1b[2Jb",
    "[red]x[/red]",
    "e\u0301" * 30,
    "",
]


def job(i: int, name: str, state: JobState = JobState.RUNNING, **changes) -> JobDetail:
    fields = {
        "id": f"5f0c2a9e7b1d4c{i:02x}", "name": name, "owner": name[::-1], "state": state, "cause": None, "priority": 0,
        "spec": {}, "gpus": 0, "created_at": NOW, "updated_at": NOW, "started_at": NOW, "finished_at": None,
        "attempt": 1, "restarts": 0, "max_restarts": 3, "cancelling": i == 3, "run_dir": "/data/" + "r" * 90,
        "history": [], "workers": WorkerCount(target=20, alive=2),
        "progress": ProgressView(
            step=40, steps=200_000, fraction=0.2, metrics={"reward/mean": 1.25, "reward/accuracy": 0.123},
            evaluation=None,
        ),
        **changes,
    }  # fmt: skip
    return JobDetail(**fields)


JOBS = [
    *(job(i, name) for i, name in enumerate(NAMES)),
    job(99, "q", JobState.QUEUED, waiting=WaitingView(position=12, reason="2 of at most 2 jobs are running")),
]
WORKERS = [
    WorkerView(name=f"rollout-{i}", state="restarting", since=NOW, node="n" * 60, pid=1, restarts=0, cause=name)
    for i, name in enumerate(NAMES)
]
SAMPLES = [
    SampleView(
        id=f"18342-{i:04}", audio_url="/", step=12, question_key="k", question=name * 20, choices=[], answer=name,
        audio="/", text=name * 30, rewards={}, reward=1.0, advantage=-0.5, valid=True, error=None, weight_version=1,
        learner_version=1, worker="w",
    )
    for i, name in enumerate(NAMES)
]  # fmt: skip
METRICS = MetricsView(
    items=[{"step": i, "tokens/generated_per_second": 1e9 + i} for i in range(1, 60)],
    names=["tokens/generated_per_second"], last_step=59, minima=None, maxima=None,
)  # fmt: skip
AUDIT = [
    AuditView(
        at=NOW, actor=name, action="job.checkpoint", target="5f0c2a9e7b1d4c38", outcome="ok", detail={"name": name}
    )
    for name in NAMES
]  # fmt: skip
TABLES = {
    "jobs": (
        jobs_table(JOBS), [part for one in JOBS for part in (one.id, "cancelling" if one.cancelling else one.state)]
    ),
    "workers": (workers_table(WORKERS), [part for one in WORKERS for part in (one.name, one.state)]),
    "samples": (samples_table(SAMPLES), [one.id for one in SAMPLES]),
    "metrics": (metrics_table(METRICS), ["tokens/generated_per_second"]),
    "audit": (_audit_table(AUDIT), ["5f0c2a9e7b1d4c38"] * len(AUDIT)),
}  # fmt: skip


def rendered(width: int, *parts: Table | Facts | str, terminal: bool = True) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=terminal, color_system=None)
    show(console, *parts)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", TABLES)
def test_a_table_fits_and_its_keys_are_whole(name, width):
    table, keys = TABLES[name]
    output = rendered(width, table)
    lines = output.splitlines()
    note = "not shown for lack of width" in lines[-1]
    assert max(map(cell_len, lines[: len(lines) - note])) <= width
    assert "\x1b[2J" not in output
    for one in set(keys):
        assert len(re.findall(rf"(?<!\S){re.escape(one)}(?!\S)", output)) == keys.count(one), (one, output)
    assert not note or width < 200


@pytest.mark.parametrize("name", TABLES)
def test_without_a_terminal_each_row_is_one_whole_line(name):
    table, keys = TABLES[name]
    output = rendered(2**31, table, terminal=False)
    assert len(output.splitlines()) == 1 + len(table)
    assert "not shown" not in output
    assert all(one in output for one in keys)
    assert not any(line.endswith(" ") for line in output.splitlines())
    if name == "jobs":
        assert "n" * 63 in output
        assert "[red]x[/red]" in output
        assert "日本語の名前" * 10 in output


def test_the_order_in_which_columns_shrink_and_leave():
    columns = (key("id"), text("name", 2), figure("a", 1), figure("b", 2), text("owner", 1), key("state"))
    natural = [10, 40, 6, 6, 30, 8]
    assert fit(columns, natural, 110) == natural
    assert fit(columns, natural, 100) == [10, 30, 6, 6, 30, 8]
    assert fit(columns, natural, 80) == [10, 20, 6, 6, 20, 8]
    assert fit(columns, natural, 63) == [10, 16, None, 6, 15, 8]
    assert fit(columns, natural, 50) == [10, 13, None, None, 13, 8]
    assert fit(columns, natural, 42) == [10, 9, None, None, 9, 8]
    assert fit(columns, natural, 39) == [10, 17, None, None, None, 8]
    assert fit(columns, natural, 29) == [10, None, None, None, None, 8]
    assert fit(columns, natural, 5) == [10, None, None, None, None, 8]
    assert fit((Column("x"),), [0], 0) == [0]


def test_the_facts_of_a_job_are_whole():
    cause = "the driver died: " + "word " * 40
    one = job(1, NAMES[0], cause=cause + "\n" + "p" * 200, waiting=WaitingView(position=3, reason="r " * 90))
    for width in WIDTHS:
        output = rendered(width, job_facts(one))
        assert one.id in output
        assert one.run_dir in output
        assert "p" * 200 in output
        assert all(cell_len(line) <= max(width, 17 + 200) for line in output.splitlines())
        assert "place 3 in the queue" in " ".join(output.split())
    assert cause.strip() in rendered(2**31, job_facts(one), terminal=False)


def test_a_cursor_is_not_broken():
    command = f"There are more: earshot jobs --cursor {'c' * 120}"
    assert rendered(40, command) == command + "\n"


@pytest.mark.parametrize("width", WIDTHS)
def test_results_keep_their_names_and_main_figure(width):
    row = {
        "accuracy": 0.5, "silence_accuracy": 0.25, "shuffled_accuracy": 0.3, "chance_accuracy": 0.25, "count": 1000,
        "failed": 0,
    }  # fmt: skip
    groups = {"by_task": {"[bold]speech and music": row}, "by_category": {}, "by_sub_category": {}, "by_difficulty": {}}
    result = {**row, "model": "m[/x]" * 30, "scores": None, "source": {}, **groups}
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    show_evaluation(result, console)
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert output.count("50.0%") == 2
    assert "m[/x]" * 30 in output
    assert "[bold]" in output
    found = {
        "first_accuracy": 0.5, "second_accuracy": 0.6, "difference": 0.1, "interval": {"low": 0.0, "high": 0.2},
        "only_first": 3, "only_second": 5, "p_value": 0.04,
    }  # fmt: skip
    both = {"official": found, "strict": found}
    compared = {"first": "a", "second": "b", "questions": 9, "left_out": 0, **both, "by_task": {"x": both}}
    show_comparison(compared, console)
    assert console.file.getvalue().count("+10.0% (+0.0 to +20.0)") == 4  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def threaded(tmp_path_factory):
    with Threaded(tmp_path_factory.mktemp("tables")) as running:
        running.do(lambda made: made.job("o" * 128, name="n" * 63))
        running.do(lambda made: made.token("o" * 128, Role.SUBMITTER))
        yield running


def in_terminal(words: list[str], width: int, environment: dict[str, str]) -> str:
    """Return what a command prints to a terminal of some width."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    with subprocess.Popen([EARSHOT, *words], stdout=child, stderr=child, stdin=child, env=environment) as process:
        os.close(child)
        output = b""
        while True:
            try:
                part = os.read(parent, 65536)
            except OSError:  # the end, on Linux
                break
            if not part:
                break
            output += part
    os.close(parent)
    assert process.returncode == 0, output
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output.decode()).replace("\r\n", "\n")


@pytest.mark.parametrize("words", [["jobs"], ["token", "list"]], ids=" ".join)
def test_the_command_in_a_terminal_and_in_a_pipe(words, threaded):
    environment = {
        **os.environ, "EARSHOT_URL": threaded.url, "EARSHOT_TOKEN": "", "TERM": "xterm-256color",
        "EARSHOT_DATABASE_URL": sqlite_url(threaded.home / "earshot.db"),
    }  # fmt: skip
    environment.pop("COLUMNS", None)
    ids = re.compile(r"(?m)^(?:tok_)?[0-9a-f]{16,32}(?= )")
    piped = subprocess.run(
        [EARSHOT, *words], capture_output=True, text=True, env=environment | {"COLUMNS": "40"}, check=True, timeout=60
    ).stdout
    assert "o" * 128 in piped
    assert "\x1b" not in piped
    assert len(piped.splitlines()) == 2
    (identifier,) = ids.findall(piped)
    wide = in_terminal(words, 400, environment)
    narrow = in_terminal(words, 60, environment)
    assert "o" * 128 in wide
    if words == ["jobs"]:
        asked = in_terminal(words, 60, environment | {"COLUMNS": "400"})
        assert [line.split()[:-1] for line in wide.splitlines()] == [line.split()[:-1] for line in asked.splitlines()]
    assert "o" * 128 not in narrow
    for output in (wide, narrow):
        assert ids.findall(output) == [identifier]
    assert max(map(len, narrow.splitlines()[:-1])) <= 60
