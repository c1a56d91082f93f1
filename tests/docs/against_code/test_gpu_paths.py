"""The page about GPUs has a row for each path that only GPUs take, as the job file names them."""

import re
from collections import Counter
from typing import get_args

from docs.pages import ROOT

from audio_qa.families import FACTS
from learner.settings import LearnerSettings
from protocol.engine import EngineOptions
from protocol.weights import Carrier

PAGE = ROOT / "docs" / "use" / "gpus.md"
STATES = {"H200", "fake", "read"}


def _values(name: str) -> list[str]:
    """Return `learner.NAME: VALUE` for each value of a key."""
    return [f"learner.{name}: {value}" for value in get_args(LearnerSettings.model_fields[name].annotation)]


PATHS = {
    "rollout.gpus",
    "rollout.tensor_parallel",
    "rollout.gpu_memory_fraction",
    "cluster.placement",
    *(f"rollout.weight_sync: {carrier}" for carrier in Carrier),
    *(f"rollout.engine.{name}" for name in EngineOptions.model_fields),
    *_values("dtype"),
    *_values("zero_stage"),
    *(f"learner.{key}" for key in ("lora", "compile", "activation_checkpointing")),
    *(f"learner.{key}" for key in LearnerSettings.model_fields if key.startswith("offload_")),
    *FACTS,
}


def _rows() -> list[list[str]]:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    # The head of the table of families has code, too.
    return [cells for cells in rows if cells[1] != "state"]


def test_every_path_has_one_row():
    named = Counter(code for cells in _rows() for code in re.findall(r"`([^`]+)`", cells[0]))
    assert set(named) == PATHS, {"missing": PATHS - set(named), "unknown": set(named) - PATHS}
    assert not [path for path, count in named.items() if count > 1]


def test_every_row_has_a_state_that_the_page_explains():
    assert {cells[1] for cells in _rows()} <= STATES
    explained = set(re.findall(r"^\| (\w+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert explained - {"state"} == STATES


def test_what_ran_on_a_gpu_is_measured():
    """A result in benchmarks/results says which GPU: without one, no row may say that a path ran there."""
    results = [path.read_text() for path in (ROOT / "benchmarks" / "results").glob("*.json")]
    assert any('"device": "NVIDIA H200"' in result for result in results) or not any(
        cells[1] == "H200" for cells in _rows()
    )
