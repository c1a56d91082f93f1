"""A batch that does not fit into the memory is cut smaller once, with the same update, and then is an error with sizes.

The memory is really scarce: the step runs in a process of its own under a limit.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def step(tiny_folder, questions):
    def run(share: float) -> dict:
        script = Path(__file__).with_name("scarce_memory.py")
        done = subprocess.run(
            [sys.executable, script, tiny_folder, questions[3].audio, str(share)],
            capture_output=True,
            text=True,
            timeout=200,
            check=True,
        )
        return json.loads(done.stdout.splitlines()[-1])

    return run


def test_a_batch_is_cut_smaller_once(step):
    """There is room for half of it and a bit."""
    unlimited, limited = step(0), step(1.4)
    assert (unlimited["micro_batches"], unlimited["cut"]) == (1, 0)
    assert (limited["micro_batches"], limited["cut"]) == (2, 1)
    assert limited["norm"] == pytest.approx(unlimited["norm"], rel=1e-4)


def test_where_half_does_not_fit_the_error_has_the_sizes(step):
    found = step(0.3)
    assert "2 micro-batches" in found["error"]
    assert "8 completions" in found["error"]
    assert "learner.micro_batch_tokens" in found["error"]
    assert str(found["tokens"]) in found["error"]
