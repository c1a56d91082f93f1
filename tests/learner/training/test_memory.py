"""A batch that does not fit into memory is split smaller once, with the same update, and then fails with its sizes.

The step runs in a separate process under a real memory limit.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Freed memory is returned at once, and threads reserve none, so the address space equals the memory in use.
MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}


@pytest.fixture(scope="module")
def step(tiny_folder, questions):
    def run(limit: int) -> dict:
        script = Path(__file__).with_name("scarce_memory.py")
        done = subprocess.run(
            [sys.executable, script, tiny_folder, questions[3].audio, str(limit)],
            capture_output=True,
            text=True,
            timeout=200,
            check=True,
            env=os.environ | MALLOC,
        )
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="module")
def unlimited(step):
    return step(0)


def test_a_batch_is_split_smaller_once(step, unlimited):
    """The limit leaves room for a little more than half of it."""
    half, whole = unlimited["half"], unlimited["whole"]
    assert half < 0.7 * whole
    limited = step((half + whole) // 2)
    assert (unlimited["micro_batches"], unlimited["cut"]) == (1, 0)
    assert (limited["micro_batches"], limited["cut"]) == (2, 1)
    assert limited["norm"] == pytest.approx(unlimited["norm"], rel=1e-4)


def test_if_half_does_not_fit_the_error_has_the_sizes(step, unlimited):
    found = step(unlimited["half"] // 3)
    assert "2 micro-batches" in found["error"]
    assert "8 completions" in found["error"]
    assert "learner.micro_batch_tokens" in found["error"]
    assert str(found["tokens"]) in found["error"]
