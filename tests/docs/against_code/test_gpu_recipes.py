"""The table of the recipes for GPUs has what their plans compute."""

import re
from pathlib import Path

from docs.pages import ROOT

from orchestrator.job.spec_file import read_spec
from orchestrator.preflight.plan import plan

PAGE = (ROOT / "docs" / "start" / "first-gpu-run.md").read_text(encoding="utf-8")
ROWS = re.findall(
    r"^\| `([\w-]+-\d-gpus?)` \| (.+?) \| (.+?) \| (.+?) \| (.+?) \| (.+?) to (.+?) s \|$", PAGE, re.MULTILINE
)


def test_the_table_has_every_recipe():
    names = [path.stem for path in Path(ROOT / "examples" / "gpus").glob("*.yaml")]
    assert sorted(row[0] for row in ROWS) == sorted(names)


def test_the_figures_are_those_of_the_plans():
    for name, trains, *shown in ROWS:
        spec = read_spec(ROOT / "examples" / "gpus" / f"{name}.yaml")
        planned = plan(spec)
        assert planned["memory_warnings"] == []
        assert ("adapters" in trains) == (spec.learner.lora is not None)
        gpu, cpu = planned["memory_gib"], planned["cpu_memory_gib"]
        values = [gpu["learner_rank"], gpu["rollout_worker"], sum(cpu.values()), *planned["time"]["step_seconds"]]
        assert [f"{value:.1f}" for value in values] == shown
        assert {control.value for control in spec.evaluation.controls} == {"silence", "shuffled"}
