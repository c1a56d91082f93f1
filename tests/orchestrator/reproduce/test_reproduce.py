"""The table of the paper's rows, from run directories with known figures."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from audio_qa.scoring.intervals import interval
from orchestrator.cli.main import app
from orchestrator.cli.run import reproduce as reproduce_command
from orchestrator.job.spec_file import SpecError, dump_spec, read_spec
from orchestrator.places import examples_folder
from orchestrator.reproduce.figures import TRAINED, UNSEEN, Share, difference, table
from orchestrator.reproduce.page import render
from orchestrator.reproduce.rows import NAMES, ROWS
from orchestrator.reproduce.runs import RowRun, check, row_runs
from orchestrator.reproduce.words import markdown
from orchestrator.run.directory import RunDirectory

TINY = examples_folder() / "tiny"
DOMAIN = {"event": "sound", "melody": "music", "vowel": "speech"}
"""A question type of each domain; the recipes train on the first of them only."""


def evaluation(right: dict[str, int], silent: int = 10) -> dict[str, Any]:
    """Return an evaluation of 40 questions of each type, with these numbers of correct answers."""

    def part(accuracy: float, silence: float, count: int) -> dict[str, Any]:
        return {
            "accuracy": accuracy,
            "silence_accuracy": silence,
            "chance_accuracy": 0.25,
            "count": count,
            "failed": 0,
        }

    by_type = {name: part(n / 40, silent / 120, 40) for name, n in right.items()}
    return {
        **part(sum(right.values()) / 120, silent / 120, 120),
        "by_task": {DOMAIN[name]: figures for name, figures in by_type.items()},
        "by_category": by_type,
    }


def finish(run: RowRun, right: dict[str, int], **summary: Any) -> None:
    """Write the files of a job that ran to its end."""
    directory = RunDirectory.create(run.path, dump_spec(run.spec))
    # An evaluation before training is not a result.
    directory.append_event("evaluation", step=0, result=evaluation(dict.fromkeys(right, 0)))
    directory.append_event("evaluation", step=run.spec.steps, result=evaluation(right))
    directory.append_event("state", state="succeeded")
    directory.write_summary({"state": "succeeded", "seconds": 61.4} | summary)


@pytest.fixture
def runs(tmp_path) -> list[RowRun]:
    return row_runs(ROWS, 2, TINY, tmp_path / "home", {})


def table_of(runs: list[RowRun], problems: dict[str, str] | None = None) -> dict[str, Any]:
    return table(runs, tiny=True, seconds=5, problems=problems or {})


def test_the_rows_of_a_seed_are_adjacent_and_have_their_own_folders(runs, tmp_path):
    assert [run.row.name for run in runs] == [*NAMES, *NAMES]
    assert [run.spec.seed for run in runs] == [0] * 6 + [1] * 6
    assert len({run.path for run in runs}) == 12
    assert runs[7].path == tmp_path / "home" / "seed-1" / "chain_of_thought"


def test_figures_are_counts_over_seeds_by_domain_and_by_trained_type(runs):
    for run, hits in ((runs[4], (40, 20, 10)), (runs[10], (30, 10, 0))):
        finish(run, dict(zip(DOMAIN, hits, strict=True)))
    row = next(r for r in table_of(runs)["rows"] if r["name"] == "grpo_2")
    figures = row["figures"]
    counts = {name: (f["right"], f["questions"]) for name, f in figures.items()}
    assert counts == {
        "all": (110, 240),
        "silence": (20, 240),
        "chance": (60, 240),
        "sound": (70, 80),
        "music": (30, 80),
        "speech": (10, 80),
        TRAINED: (70, 80),
        UNSEEN: (40, 160),
    }
    assert figures["all"]["interval"] == [round(bound, 4) for bound in interval(110 / 240, 240)]
    assert row["by_seed"] == [round(70 / 120, 4), round(40 / 120, 4)]
    assert row["paper"]["average"] == 64.5


def test_the_baseline_of_an_unfinished_run_is_not_a_figure(runs):
    directory = RunDirectory.create(runs[0].path, dump_spec(runs[0].spec))
    directory.append_event("state", state="running")
    directory.append_event("evaluation", step=0, result=evaluation(dict.fromkeys(DOMAIN, 40)))
    found = table_of(runs)
    assert not found["complete"]
    assert found["rows"][0]["figures"] == {}
    assert [run["state"] for run in found["rows"][0]["runs"]] == ["running", "waiting"]
    assert "Not complete: 0 of 12 runs are done." in markdown(found)


def test_a_run_that_was_stopped_after_its_last_checkpoint_is_done(runs):
    directory = RunDirectory.create(runs[4].path, dump_spec(runs[4].spec))
    directory.append_event("evaluation", step=100, result=evaluation(dict.fromkeys(DOMAIN, 30)))
    directory.append_event("state", state="cancelled")
    assert not runs[4].done
    directory.checkpoint(100).mkdir(parents=True)
    assert runs[4].done
    assert table_of(runs)["rows"][4]["runs"][0]["state"] == "succeeded"


def test_options_fill_in_the_open_fields(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill = {"model.path": "models/seven", "data.train": "hf:owner/avqa#train", "data.evaluation": "mmau.json"}
    made = row_runs(ROWS, 1, examples_folder() / "paper", tmp_path / "home", fill)
    assert {run.spec.model.path for run in made} == {str(tmp_path / "models" / "seven")}
    assert {run.spec.data.train for run in made} == {"hf:owner/avqa#train"}
    assert {run.spec.data.evaluation for run in made} == {str(tmp_path / "mmau.json")}
    assert {run.spec.seed for run in made} == {42}


def test_a_difference_is_significant_only_beyond_its_interval():
    # Newcombe (1998), table II, case (a): 56/70 and 48/80, method 10.
    found = difference(Share(56, 70), Share(48, 80))
    assert found["interval"] == pytest.approx([0.0524, 0.3339], abs=2e-4)
    assert found["verdict"] == "higher"
    assert difference(Share(48, 80), Share(56, 70))["verdict"] == "lower"
    assert difference(Share(50, 100), Share(52, 100))["verdict"] == "not told apart"


def test_the_differences_include_unseen_types(runs):
    finish(runs[2], {"event": 40, "melody": 8, "vowel": 8})
    finish(runs[4], {"event": 40, "melody": 30, "vowel": 30})
    asked = {(q["first"], q["second"], q["of"]): q for q in table_of(runs)["questions"]}
    assert asked["grpo_2", "sft_full_1", UNSEEN]["verdict"] == "higher"
    assert asked["grpo_2", "sft_full_1", TRAINED]["verdict"] == "not told apart"
    assert ("grpo_2", "grpo_3", "all") not in asked


class Tags(HTMLParser):
    """The tags and links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_pages_say_what_was_run_and_what_failed_and_need_no_network(runs):
    finish(runs[4], dict.fromkeys(DOMAIN, 30))
    found = table_of(runs, {str(runs[0].path): "LearnerError: <script>alert(1)</script>"})
    text, page = markdown(found), render(found)
    for shown in (text, page):
        assert "69.37 / 66.77 / 57.36 / 64.50" in shown
        assert "75.0 (67 to 82)" in shown
        assert "event, count, first, instrument" in shown
        assert "86.31 / 78.22 / 82.17 / 82.23" in shown
        assert "2 seeds (0, 1)" in shown
    assert "| GRPO \\<2\\> |" in text
    assert "\\<script\\>" in text
    tags = Tags(page)
    assert "script" not in tags.tags
    assert tags.links == []
    # All questions, trained and unseen types, three domains.
    assert tags.tags.count("svg") == 6


def test_a_row_whose_questions_failed_says_so_and_has_no_figure_if_all_did(runs):
    unknown = {"accuracy": None, "silence_accuracy": None, "chance_accuracy": 0.25, "count": 120, "failed": 120}
    finish(runs[0], dict.fromkeys(DOMAIN, 30))
    nothing = {**unknown, "by_task": {"sound": unknown}, "by_category": {"event": unknown}}
    RunDirectory(runs[0].path).append_event("evaluation", step=runs[0].spec.steps, result=nothing)
    found = table_of(runs)
    row = next(row for row in found["rows"] if row["name"] == runs[0].row.name)
    assert ("all" in row["figures"], row["by_seed"]) == (False, [])
    for shown in (markdown(found), render(found)):
        assert "120 of 120 questions could not be asked; events.jsonl has the reasons" in shown.replace("\\.", ".")


def test_a_row_that_is_done_must_have_the_settings_asked_for(runs, tmp_path):
    finish(runs[0], dict.fromkeys(DOMAIN, 30))
    check(runs)
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    for name in NAMES:
        job = yaml.safe_load((TINY / f"{name}.yaml").read_text())
        (recipes / f"{name}.yaml").write_text(yaml.safe_dump(job | {"rollout": {"workers": 1, "max_tokens": 9}}))
    with pytest.raises(SpecError, match="with other settings"):
        check(row_runs(ROWS, 1, recipes, tmp_path / "home", {}))


def test_the_command_runs_what_is_not_done_and_writes_the_table_after_every_row(monkeypatch, tmp_path):
    home = tmp_path / "home"
    asked = []

    def stand_in(run: RowRun, progress: object) -> None:
        asked.append((run.row.name, run.spec.seed))
        # As a reader finds it during the run.
        assert json.loads((home / "table.json").read_text())["complete"] is False
        if len(asked) == 2:
            raise RuntimeError("no room")
        finish(run, dict.fromkeys(DOMAIN, 30))

    monkeypatch.setattr("orchestrator.cli.run.reproduce.run_row", stand_in)
    command = ["reproduce", "--tiny", "--seeds", "1", "--rows", "grpo_2,zero_shot,sft_full_1", "--run-dir", str(home)]
    first = CliRunner().invoke(app, [*command, "--json"])
    assert first.exit_code == 1
    assert asked == [("zero_shot", 0), ("sft_full_1", 0), ("grpo_2", 0)]
    failed = json.loads(first.stdout)["rows"][1]["runs"][0]
    assert failed["problem"] == "RuntimeError: no room"
    second = CliRunner().invoke(app, [*command, "--json"])
    assert second.exit_code == 0
    assert asked[3:] == [("sft_full_1", 0)]
    assert json.loads(second.stdout) == json.loads((home / "table.json").read_text())
    assert json.loads(second.stdout)["complete"]
    assert {p.name for p in home.iterdir()} == {"seed-0", "table.md", "table.html", "table.json"}


def test_ctrl_c_leaves_a_readable_table(monkeypatch, tmp_path):
    def interrupted(run: RowRun, progress: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("orchestrator.cli.run.reproduce.run_row", interrupted)
    result = CliRunner().invoke(app, ["reproduce", "--tiny", "--run-dir", str(tmp_path / "home"), "--json"])
    assert result.exit_code == 130
    assert json.loads((tmp_path / "home" / "table.json").read_text())["complete"] is False


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tiny", "--rows", "grpo_4"], "no row 'grpo_4'; choose from zero_shot"),
        (["--tiny", "--recipes", "nowhere"], "zero_shot.yaml: the job file cannot be read"),
        ([], "name yours with --model, --train, --evaluation"),
        (["--model", "nowhere", "--train", "a.jsonl", "--evaluation", "b.jsonl"], "nowhere' is not a folder"),
        (["--tiny", "--run-dir", "{used}"], "holds something else"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_written(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    used = tmp_path / "used"
    used.mkdir()
    (used / "notes.txt").write_text("mine")
    result = CliRunner().invoke(app, ["reproduce", *(a.format(used=used) for a in arguments)])
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
    assert len(result.stderr.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["used"]


def test_the_command_has_as_many_seeds_as_its_help_says():
    text = CliRunner().invoke(app, ["reproduce", "--help"], env={"COLUMNS": "300"}).stdout
    assert f"Default: {reproduce_command.TINY_SEEDS} with --tiny" in text


def test_recipes_of_a_row_differ_from_one_another_only_where_the_row_does():
    """All rows have the same base model and the same number of the same questions."""
    specs = {name: read_spec(TINY / f"{name}.yaml") for name in NAMES}
    for spec in specs.values():
        assert spec.model == specs["grpo_2"].model
        assert spec.data.model_copy(update={"prompt": "2"}) == specs["grpo_2"].data
        assert (spec.warm_start, spec.evaluation.every, spec.learner.train) == (
            None,
            0 if spec.steps else 100,
            specs["grpo_2"].learner.train,
        )
    seen = {
        name: spec.steps * (spec.supervised.batch_size if "sft" in name else spec.rollout.questions_per_step)
        for name, spec in specs.items()
    }
    assert seen == {name: 0 if "shot" in name or "chain" in name else 3200 for name in NAMES}


def test_both_recipe_folders_have_a_job_file_for_each_row():
    assert {path.stem for path in TINY.glob("*.yaml")} == set(NAMES)
    assert {path.stem for path in (examples_folder() / "paper").glob("*.yaml")} == set(NAMES)
    assert Path(TINY).is_dir()


def test_rows_without_training_need_no_training_questions(tmp_path):
    paper, yours = examples_folder() / "paper", {"model.path": "/models/mine", "data.evaluation": "/data/mmau.json"}
    assert [run.spec.steps for run in row_runs(ROWS[:2], 1, paper, tmp_path, yours)] == [0, 0]
    with pytest.raises(SpecError, match=r"AVQA train: name yours with --train$"):
        row_runs(ROWS[:3], 1, paper, tmp_path, yours)
    trained = yours | {"data.train": "/data/avqa.json"}
    runs = row_runs(ROWS, 1, paper, tmp_path, trained)
    assert table(runs, tiny=False, seconds=0, problems={})["train"] == "/data/avqa.json"
