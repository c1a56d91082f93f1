"""Every tiny variant of the paper's rows is run: fewer steps and questions, on a model with random weights."""

import json

import pytest
import yaml
from integration.conftest import earshot

from orchestrator.places import examples_folder
from orchestrator.reproduce.rows import NAMES
from orchestrator.run.directory import RunDirectory

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def shrunken(tiny_folder, tmp_path_factory):
    """Write the tiny recipes with sizes that take minutes; everything else is unchanged."""
    folder = tmp_path_factory.mktemp("recipes")
    for name in NAMES:
        job = yaml.safe_load((examples_folder() / "tiny" / f"{name}.yaml").read_text())
        job["model"]["path"] = str(tiny_folder)
        job["data"] |= {"synthetic_train": 40, "synthetic_evaluation": 20}
        job["rollout"] |= {"workers": 1, "threads": 1}
        if "steps" in job:
            job["learner"]["threads"] = 1
            job["steps"] = min(job["steps"], 2)
        if "questions_per_step" in job["rollout"]:
            job["rollout"]["questions_per_step"] = 4
        if "supervised" in job:
            job["supervised"]["batch_size"] = 4
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(job))
    return folder


def test_all_rows_run_and_a_second_call_runs_none_again(shrunken, tmp_path, monkeypatch):
    monkeypatch.setenv("EARSHOT_CACHE", str(tmp_path / "cache"))
    home = tmp_path / "home"
    command = ("reproduce", "--tiny", "--seeds", 1, "--recipes", shrunken, "--run-dir", home, "--json")
    done = earshot(*command, timeout=1500)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["complete"]
    assert [row["name"] for row in found["rows"]] == list(NAMES)
    for row in found["rows"]:
        assert row["figures"]["all"]["questions"] == 20
        assert row["figures"]["trained_types"]["questions"] + row["figures"]["unseen_types"]["questions"] == 20
        directory = RunDirectory(home / "seed-0" / row["name"])
        assert len(directory.metrics()) == row["steps"]
        assert (directory.summary() or {})["state"] == "succeeded"
    trained = {
        sample["question"] for row in ("grpo_2", "grpo_3") for sample in RunDirectory(home / "seed-0" / row).samples()
    }
    assert not any("melody" in question or "vowel" in question for question in trained)
    before = sorted((p, p.stat().st_mtime_ns) for p in (home / "seed-0").rglob("*"))
    again = earshot(*command, timeout=300)
    assert again.returncode == 0, again.stderr[-3000:]
    assert sorted((p, p.stat().st_mtime_ns) for p in (home / "seed-0").rglob("*")) == before
    assert again.stderr.count("already complete") == len(NAMES)
