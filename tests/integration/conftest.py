"""The real command on a small job."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from orchestrator.run.directory import RunDirectory

EARSHOT = Path(sys.executable).parent / "earshot"


@pytest.fixture(scope="session")
def job_file(tiny_folder, benchmark_home) -> Callable[..., Path]:
    """Write a small job on a copy of the benchmark into a folder; `changes` override its sections."""

    def write(folder: Path, **changes: Any) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        data = folder / "data"
        shutil.copytree(benchmark_home, data)
        job: dict[str, Any] = {
            "name": "small",
            "seed": 5,
            "steps": 3,
            "model": {"path": str(tiny_folder), "max_context": 256},
            "data": {"train": "data/train.jsonl", "evaluation": "data/heldout.jsonl"},
            "rollout": {"workers": 2, "group_size": 4, "questions_per_step": 6, "max_tokens": 8, "threads": 1},
            "learner": {"optimizer": {"learning_rate": 1.0e-3}, "threads": 1},
        }
        for section, change in changes.items():
            job[section] = {**job[section], **change} if isinstance(job.get(section), dict) else change
        path = folder / "job.yaml"
        path.write_text(yaml.safe_dump(job))
        return path

    return write


# Long enough that a model of random weights gives answers of the right form, some of them right: rewards differ.
WARM = {"steps": 40, "batch_size": 8, "questions": 16, "optimizer": {"learning_rate": 1.0e-3}}

FAULTS = [
    {"point": "forward", "learn_calls": 1},
    {"point": "publish", "learn_calls": 1},
    {"point": "backward", "learn_calls": 2},
    {"point": "save", "learn_calls": 1},
    {"point": "step", "learn_calls": 1},
]
"""Points at which a learner rank is killed, sequentially."""


@pytest.fixture(scope="session")
def repeated(job_file, tmp_path_factory) -> dict[str, dict[str, Any]]:
    """A deterministic job with every feature on, whose three steps are one epoch: undisturbed, and killed in every way.

    The other one loses a rank at each of the `FAULTS`, then all its processes at once, and is resumed into the next
    epoch.
    The two run side by side: what is deterministic does not depend on what else the machine does.
    """
    folder = tmp_path_factory.mktemp("repeated")
    job = job_file(
        folder,
        deterministic=True,
        warm_start=WARM,
        evaluation={"every": 3},
        checkpoint={"every": 1},
        learner={"optimizer": {"learning_rate": 1.0e-3, "schedule": "constant"}, "max_restarts": len(FAULTS)},
    )
    train = folder / "data" / "train.jsonl"
    train.write_text("".join(train.read_text().splitlines(keepends=True)[:18]))
    faults = folder / "faults.json"
    faults.write_text(json.dumps(FAULTS))
    commands = {
        "alone": (EARSHOT,),
        "killed": (sys.executable, Path(__file__).parents[1] / "support" / "runs" / "faulty_job.py", faults),
    }
    running = {
        name: start_earshot(
            *("run", job, "--json", "--run-dir", folder / name), stderr=folder / f"{name}.txt", command=command
        )
        for name, command in commands.items()
    }
    try:
        wait_for((folder / "killed" / "events.jsonl").exists, running["killed"], 120)
        killed = RunDirectory(folder / "killed")
        wait_for(lambda: recoveries(killed) == len(FAULTS), running["killed"], 1000)
        end(running["killed"])
        longer = folder / "longer.yaml"
        longer.write_text(yaml.safe_dump(yaml.safe_load(killed.job_file.read_text()) | {"steps": 4}))
        resumed = earshot("run", longer, "--resume", "--run-dir", killed.path, "--json", timeout=1000)
        assert resumed.returncode == 0, resumed.stderr[-3000:]
        stdout, _ = running["alone"].communicate(timeout=1000)
        assert running["alone"].returncode == 0, (folder / "alone.txt").read_text()[-3000:]
    finally:
        for process in running.values():
            end(process)
    assert faults.with_suffix(".done").read_text().split() == [fault["point"] for fault in FAULTS]
    return {"alone": json.loads(stdout), "killed": json.loads(resumed.stdout)}


def recoveries(run: RunDirectory) -> int:
    """Return how often a job has started new learner ranks."""
    return sum(e["kind"] == "state" and e["state"] == "recovering" for e in run.events())


def earshot(*arguments: object, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [EARSHOT, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "EARSHOT_TRACEBACK": "1"},
        check=False,
    )


def start_earshot(*arguments: object, stderr: Path, command: Sequence[object] = (EARSHOT,)) -> subprocess.Popen[str]:
    """Start the command in its own process group, as a shell does."""
    with stderr.open("w") as log:
        return subprocess.Popen(
            [*map(str, command), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )


def interrupt(process: subprocess.Popen[str]) -> None:
    """Send SIGINT to the whole process group, as a terminal does on Ctrl-C."""
    os.killpg(process.pid, signal.SIGINT)


def end(process: subprocess.Popen[str]) -> None:
    """Kill what a failed test left running: its Ray and engines would slow down all other tests."""
    if process.poll() is None:
        for member in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            member.kill()
        process.wait(timeout=10)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the command ended early"
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.1)


def timeless(record: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in record.items() if not k.startswith("time") and not k.endswith("per_second")}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
