"""The panel of `earshot watch` fits the terminal, and no text of a job can control the terminal."""

import io
import time
from collections import deque
from datetime import UTC, datetime

import pytest
from rich.console import Console

from orchestrator.cli.service.tables import job_facts
from orchestrator.cli.service.watch import Watched, panel
from orchestrator.display.progress_text import TimeLeft
from orchestrator.schemas.api import (
    EvaluationView,
    EventView,
    JobDetail,
    ProgressView,
    WorkerCount,
    WorkerPage,
    WorkerView,
)
from orchestrator.schemas.job_state import JobState


@pytest.fixture
def watched():
    now = datetime.now(UTC)
    seen = Watched.__new__(Watched)
    seen.job = JobDetail(
        id="5f0c2a9e7b1d4c38", name="demo", owner="[red]ada", state=JobState.RUNNING, cause="\x1b[2Jworse\nand worse",
        priority=0, spec={}, gpus=0, created_at=now, updated_at=now, started_at=now, finished_at=None, attempt=1,
        restarts=0, max_restarts=3, cancelling=False, run_dir="/r", history=[],
        progress=ProgressView(
            step=40, steps=200, fraction=0.2, metrics={"reward/mean": 1.25, "time/step": 2.0},
            evaluation={"step": 0, "accuracy": 0.4, "silence_accuracy": None, "shuffled_accuracy": 0.3},
        ),
        workers=WorkerCount(target=20, alive=2),
    )  # fmt: skip
    items = [
        WorkerView(name=f"rollout-{i}", state="serving", since=now, node="n" * 60, pid=1, restarts=0, cause="[bold]x")
        for i in range(20)
    ]
    seen.workers = WorkerPage(items=items, next_cursor=None, target=20)
    seen.curves = {"reward/mean": [i / 40 for i in range(40)], "reward/accuracy": [0.5]}
    seen.events = deque([EventView(cursor="1", kind="worker_lost", time=now.isoformat(), cause="\x1b[2J" + "y" * 400)])
    seen.problem = None
    return seen


@pytest.mark.parametrize("width", [40, 80, 200])
def test_it_fits(watched, width):
    console = Console(width=width, record=True, file=open("/dev/null", "w"), force_terminal=True)  # noqa: SIM115, PTH123
    console.print(panel(watched, TimeLeft(time.monotonic), width))
    text = console.export_text()
    assert all(len(line) <= width for line in text.splitlines())
    assert "\x1b[2J" not in text
    assert "demo" in text
    if width >= 80:
        for part in (
            "40/200",
            "1.250",
            "worse",
            "▁",
            "rollout-0",
            "and 8 more",
            "accuracy 40.0%",
            "[bold]x",
            "worker_lost",
        ):
            assert part in text
        # Line breaks depend on the width.
        assert "with shuffled clips 30.0%" in " ".join(text.replace("│", " ").split())


def test_an_evaluation_without_an_accuracy_is_shown(watched):
    watched.job.progress.evaluation = EvaluationView(step=9, chance_accuracy=0.25, count=5, failed=5)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(panel(watched, TimeLeft(time.monotonic), 120))
    console.print(job_facts(watched.job), crop=False)
    text = " ".join(console.export_text().replace("│", " ").split())
    assert "at step 9: accuracy –, with silence –, chance 25.0%, 5 of 5 questions failed" in text
    assert "5 of 5 questions failed at step 9" in text
