"""A run continues with the inputs that it began with, or says what differs; up to the point where it starts Ray."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support.runs.resumed_job import (
    INPUTS,
    begun,
    contents,
    first_question_out,
    home,
    job_of,
    one_more,
    other_answers,
    other_code,
    other_code_beside,
    other_rates,
    other_sound,
    other_template,
    other_weights,
    recorded,
    resumed,
    stops_before_ray,
)
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.driver.recovery import roll_back_to_checkpoint
from orchestrator.questions.solve_rates import SolveRate
from orchestrator.run.checkpoints import checkpoints_of
from orchestrator.training.state import RunState

__all__ = ["home", "stops_before_ray"]


def test_a_new_run_records_its_inputs_before_it_starts(home):
    run = begun(home)
    found = recorded(run)
    assert list(found.inputs) == INPUTS
    assert all(len(value.digest or "") == 64 for value in found.inputs.values())
    assert {name: value.size for name, value in found.inputs.items() if value.size} == {
        "data.train": "6 questions",
        "clips of data.train": "6 clips",
        "data.evaluation": "3 questions",
        "clips of data.evaluation": "3 clips",
    }
    assert found.inputs["reward code my_rules"].location == str(home / "code" / "my_rules")


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (other_answers, ["data.train"]),
        (one_more, ["data.train", "clips of data.train"]),
        (first_question_out, ["data.evaluation", "clips of data.evaluation"]),
        (other_sound, ["clips of data.train"]),
        (other_weights, ["model.path"]),
        (other_template, ["model.path"]),
        (other_rates, ["data.curriculum.measured"]),
        (other_code, ["reward code my_rules"]),
        (other_code_beside, ["reward code my_rules"]),
    ],
)
def test_another_input_is_refused_and_may_be_accepted(home, change: Callable[[Path], None], names: list[str]):
    run = begun(home)
    was, files = recorded(run).inputs, contents(run.path)
    change(home)
    code, said = resumed(home)
    assert code == 2, said
    assert contents(run.path) == files
    line = next(line for line in said.splitlines() if "other inputs" in line)
    assert "accept the change with --accept-changes" in line
    assert re.findall(r"[:;] ((?:clips of |reward code )?[\w.]+) \('", line) == names
    assert resumed(home, "--accept-changes")[0] is None
    now = recorded(run).inputs
    (event,) = [event for event in run.events() if event["kind"] == "inputs_changed"]
    assert (event["step"], [item["input"] for item in event["inputs"]]) == (2, names)
    for item in event["inputs"]:
        assert item["was"] == was[item["input"]].digest != item["now"] == now[item["input"]].digest
        assert f"was {item['was'][:12]}" in line
        assert f"is {item['now'][:12]}" in line
    assert {name for name in INPUTS if was[name] == now[name]} == set(INPUTS) - set(names)
    # From now on the run has the new ones.
    assert resumed(home)[0] is None
    assert [m["step"] for m in run.metrics()] == [1, 2]


def test_the_counts_are_named(home):
    begun(home)
    one_more(home)
    assert "(6 questions), is" in (said := resumed(home)[1])
    assert "(7 questions)" in said
    assert str(home / "data" / "train.jsonl") in said


def test_solve_rates_of_other_questions_are_forgotten(home):
    run = begun(home)
    spec = job_of(home)
    state = RunState()
    roll_back_to_checkpoint(run, checkpoints_of(run, spec), state)
    assert state.solve_rates == {"train:0": SolveRate(3, 4)}
    other_answers(home)
    assert resumed(home, "--accept-changes")[0] is None
    # Also when a learner is restarted before the next checkpoint.
    roll_back_to_checkpoint(run, checkpoints_of(run, spec), state)
    assert (state.step, state.position, state.solve_rates) == (2, 4, {})


def test_the_flag_is_for_resuming(home):
    result = CliRunner().invoke(app, ["run", str(home / "job.yaml"), "--accept-changes"])
    assert result.exit_code == 2
    assert "--accept-changes is for a run that continues" in result.output


def test_a_dry_run_does_not_resume(home):
    run = begun(home)
    files = contents(run.path)
    code, said = resumed(home, "--dry-run")
    assert (code, contents(run.path)) == (2, files)
    assert "--dry-run plans a new job, and --resume continues a run: leave one of them out" in said
