"""Everything that the pages tell a user to copy works: job files, question files, Python."""

import json
import re
import subprocess
import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import soundfile
import yaml
from docs.pages import PAGES, ROOT, blocks, name_of

from audio_qa.dataset import read_jsonl
from audio_qa.files.reader import read_questions
from audio_qa.formats.registry import NAMES, choose
from orchestrator.job.sections.data import DataFormat
from orchestrator.job.spec import PLACEHOLDER_PREFIX, JobSpec
from orchestrator.job.spec_file import parse_spec, read_spec, resolve_paths
from orchestrator.preflight.plan import plan

QUICKSTART = ROOT / "docs" / "start" / "quickstart.md"
DATA = ROOT / "docs" / "use" / "data.md"


def heredoc(page: Path, mark: str) -> str:
    found = re.search(rf"<<'{mark}'\n(.*?\n){mark}\n", page.read_text(encoding="utf-8"), re.DOTALL)
    assert found, f"{page.name} has no {mark}"
    return found[1]


def run(code: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_quickstarts_job_can_be_planned_and_its_questions_read(tmp_path):
    run(heredoc(QUICKSTART, "EOF_CLIPS"), tmp_path)
    job = tmp_path / "my-job" / "job.yaml"
    job.write_text(heredoc(QUICKSTART, "EOF_JOB"))
    spec = resolve_paths(read_spec(job), job.parent)
    assert plan(spec)["name"] == "my-job"
    train, held_out = read_jsonl(spec.data.train), read_jsonl(spec.data.evaluation)
    assert (len(train), len(held_out)) == (64, 20)
    assert {q.answer for q in held_out} == {"high", "low"}


def test_the_checkpoints_that_the_quickstart_evaluates_are_kept():
    spec = parse_spec(yaml.safe_load(heredoc(QUICKSTART, "EOF_JOB")), "quickstart")
    kept = {0, spec.steps} | set(range(spec.checkpoint.every, spec.steps, spec.checkpoint.every))
    assert spec.warm_start is not None  # without it there is no step-0
    named = {int(step) for step in re.findall(r"checkpoints/step-(\d+)", QUICKSTART.read_text(encoding="utf-8"))}
    assert named
    assert named <= kept


def test_the_synthetic_benchmark_is_written_as_the_data_page_says(tmp_path):
    code = next(b for b in blocks(DATA, "python") if "make_benchmark" in b)
    home = tmp_path / run(code.replace("train=400, heldout=100", "train=40, heldout=10"), tmp_path).strip()
    assert len(read_jsonl(home / "train.jsonl")) == 40
    assert len(read_jsonl(home / "heldout.jsonl")) == 10


def test_the_question_files_of_the_data_page_are_read_in_their_formats(tmp_path):
    found = []
    for i, block in enumerate(blocks(DATA, "json")):
        (tmp_path / f"{i}.jsonl").write_text(block, encoding="utf-8")
        read = read_questions(tmp_path / f"{i}.jsonl", check_audio=False)
        assert len(read.accepted()) == len(block.splitlines())
        found.append(read.source.format)
    assert sorted(found) == sorted(set(NAMES) - {"auto", "mapped"})


def test_a_job_file_can_name_every_format():
    assert set(get_args(DataFormat)) == set(NAMES)


@pytest.mark.parametrize("page", [page for page in PAGES if "deploy" not in page.parts], ids=name_of)
def test_yaml_blocks_are_valid_in_a_job(page, tmp_path):
    least = {"model": {"path": f"{PLACEHOLDER_PREFIX}Qwen2-Audio-7B-Instruct"}, "data": {"train": "builtin:synthetic"}}
    for i, block in enumerate(blocks(page, "yaml")):
        folder = tmp_path / str(i)
        folder.mkdir()
        (folder / "job.yaml").write_text(block)
        missing = {key: value for key, value in least.items() if not re.search(rf"^{key}:", block, re.MULTILINE)}
        spec = resolve_paths(read_spec(folder / "job.yaml", missing), folder)
        make_question_files(spec, folder)
        plan(spec)


def make_question_files(spec: JobSpec, folder: Path) -> None:
    """Write a question and its clip where a job of a page names a file that is a user's own."""
    data = spec.data
    for location, form, columns, audio_root in (
        (data.train, data.format, data.columns, data.audio_root),
        (data.evaluation, data.evaluation_format, data.evaluation_columns, data.evaluation_audio_root),
    ):
        if location is None or not location.startswith(str(folder)):
            continue
        path = Path(location)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(item_of(form, columns, f"{path.stem}.wav")) + "\n")
        read = read_questions(path, format=form, columns=columns or None, audio_root=audio_root, check_audio=False)
        for question in read.questions:
            # Each file's clips differ, or the splits would overlap.
            noise = np.random.default_rng(zlib.crc32(location.encode())).uniform(-0.5, 0.5, 8000)
            Path(question.audio).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(question.audio, noise, 16_000)


def item_of(form: str, columns: Mapping[str, str | Sequence[str]], audio: str) -> dict[str, Any]:
    """Return an item of a format: the data page's, or one with the job's own columns."""
    if columns:
        values = {"audio": audio, "question": "?", "answer": 0, "choices": ["a", "b", "c"], "task": "sound"}
        item: dict[str, Any] = {}
        for key, column in columns.items():
            named = [column] if isinstance(column, str) else list(column)
            item |= dict(zip(named, "abc", strict=False)) if len(named) > 1 else {named[0]: values[key]}
        return item
    if form in ("auto", "earshot"):
        return {"id": "1", "audio": audio, "question": "?", "choices": ["a", "b"], "answer": "a"}
    for block in blocks(DATA, "json"):
        item = json.loads(block.splitlines()[0])
        found = choose("auto", None, item)
        if found is not None and found.name == form:
            return item
    raise AssertionError(f"the data page shows no item of {form}")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "examples").glob("**/*.yaml")), ids=lambda p: f"{p.parent.name}-{p.name}"
)
def test_every_example_can_be_planned_as_it_is(path):
    planned = plan(resolve_paths(read_spec(path), path.parent))
    assert planned["memory_warnings"] == []
    learns = planned["job"]["method"] != "evaluate"
    assert (planned["memory_gib"]["learner_rank"] > 0) == (planned["learner_ranks"] > 0) == learns
    if path.parent.name in ("paper", "gpus"):
        named = re.search(r"-(\d+)-gpus?$", path.stem)
        assert planned["gpus"] == (int(named[1]) if named else 8)
        assert set(planned["to_fill_in"]) == {"model.path", "data.evaluation"} | ({"data.train"} if learns else set())
        low, high = planned["time"]["hours"]
        assert 0 < low <= high
    else:
        assert (planned["gpus"], planned["to_fill_in"], planned["time"]) == (0, {}, None)


def test_the_first_gpu_run_shows_the_plan_of_its_recipe():
    path = ROOT / "examples" / "paper" / "grpo_2.yaml"
    planned = plan(resolve_paths(read_spec(path), path.parent))
    page = (ROOT / "docs" / "start" / "first-gpu-run.md").read_text(encoding="utf-8")
    assert planned["device_warnings"] == []
    memory, time = planned["memory_gib"], planned["time"]
    for figure in (
        f"{memory['learner_rank']} GiB, {planned['memory_parts_gib']['activations']} of them for activations",
        f"{memory['rollout_worker']} GiB",
        *(" to ".join(map(str, time[key])) for key in ("step_seconds", "evaluation_seconds", "hours")),
    ):
        assert figure in page


def test_a_job_needs_no_more_than_the_job_file_page_says():
    parse_spec({"model": {"path": "builtin:tiny-qwen2-audio"}, "data": {"train": "builtin:synthetic"}}, "least")
