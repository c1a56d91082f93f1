"""The real command on a small job."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

EARSHOT = Path(sys.executable).parent / "earshot"


@pytest.fixture(scope="session")
def job_file(tiny_folder, benchmark_home) -> Callable[..., Path]:
    """Writes a small job on a copy of the benchmark into a folder; `changes` are put over its sections."""

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


def earshot(*arguments: object, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [EARSHOT, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "EARSHOT_TRACEBACK": "1"},
        check=False,
    )


def start_earshot(*arguments: object, stderr: Path) -> subprocess.Popen[str]:
    """Start the command in a process group of its own, as a shell does."""
    with stderr.open("w") as log:
        return subprocess.Popen(
            [EARSHOT, *map(str, arguments)], stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )


def interrupt(process: subprocess.Popen[str]) -> None:
    """Ctrl-C: the terminal sends SIGINT to the whole process group."""
    os.killpg(process.pid, signal.SIGINT)


def end(process: subprocess.Popen[str]) -> None:
    """Leave nothing of a command that a failed test left running: its Ray and engines would slow all other tests."""
    if process.poll() is None:
        for member in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            member.kill()
        process.wait(timeout=10)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
