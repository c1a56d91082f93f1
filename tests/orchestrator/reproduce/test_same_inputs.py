"""A row that is done stays in the table only while the questions and the model are those that it was run with."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from orchestrator.job.spec_file import SpecError, dump_spec
from orchestrator.places import examples_folder
from orchestrator.preflight.inputs import file_inputs, write_inputs
from orchestrator.preflight.prepare import job_questions
from orchestrator.reproduce.rows import ROWS
from orchestrator.reproduce.runs import RowRun, check, row_runs
from orchestrator.run.directory import RunDirectory


def rows_in(home: Path, runs: Path) -> list[RowRun]:
    """Return the runs of three rows with the model and the questions in a folder."""
    recipes = home / "recipes"
    recipes.mkdir(exist_ok=True)
    for row in ROWS[:3]:
        job = yaml.safe_load((examples_folder() / "tiny" / f"{row.name}.yaml").read_text())
        data = {"train": "../data/train.jsonl", "evaluation": "../data/heldout.jsonl"}
        job |= {"model": {"path": "../model", "max_context": 256}, "data": data}
        (recipes / f"{row.name}.yaml").write_text(yaml.safe_dump(job))
    return row_runs(ROWS[:3], 1, recipes, runs, {})


def finish(run: RowRun) -> None:
    directory = RunDirectory.create(run.path, dump_spec(run.spec))
    train, held_out, _ = job_questions(run.spec, lambda *_: None)
    write_inputs(directory, file_inputs(run.spec, train, () if held_out is None else held_out.questions))
    directory.write_summary({"state": "succeeded"})


@pytest.fixture
def home(tiny_folder, benchmark_home, tmp_path) -> Path:
    shutil.copytree(benchmark_home, tmp_path / "home" / "data")
    shutil.copytree(tiny_folder, tmp_path / "home" / "model")
    return tmp_path / "home"


def test_other_questions_and_another_model_are_refused(home, tmp_path):
    runs = rows_in(home, tmp_path / "runs")
    for run in runs[:2]:
        finish(run)
    assert [run.done for run in runs] == [True, True, False]
    check(runs)
    file = home / "data" / "heldout.jsonl"
    before = file.read_text()
    first, *others = before.splitlines()
    question = json.loads(first)
    wrong = next(choice for choice in question["choices"] if choice != question["answer"])
    file.write_text("\n".join([json.dumps(question | {"answer": wrong}), *others]) + "\n")
    words = r"zero_shot: this row was run with other inputs: data\.evaluation \('.*heldout\.jsonl'\) was \w{12} \(20 q"
    with pytest.raises(SpecError, match=words):
        check(runs)
    file.write_text(before)
    check(runs)
    (home / "model" / "tokenizer.json").write_text((home / "model" / "tokenizer.json").read_text() + "\n")
    with pytest.raises(SpecError, match=r"model\.path \(.* was .*; put back what it had, name another folder"):
        check(runs)


def test_the_same_files_elsewhere_are_the_same_rows(home, tmp_path):
    runs = rows_in(home, tmp_path / "runs")
    finish(runs[0])
    shutil.copytree(home, tmp_path / "moved")
    shutil.rmtree(home)
    check(rows_in(tmp_path / "moved", tmp_path / "runs"))
