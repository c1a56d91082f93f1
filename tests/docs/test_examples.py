"""What README and docs tell a user to copy works, and their links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from audio_qa.dataset import read_jsonl
from audio_qa.formats.reader import read_questions
from audio_qa.formats.registry import NAMES
from orchestrator.job.spec_file import parse_spec, read_spec, resolve_paths
from orchestrator.preflight.plan import plan

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def heredoc(page: Path, mark: str) -> str:
    found = re.search(rf"<<'{mark}'\n(.*?\n){mark}\n", page.read_text(encoding="utf-8"), re.DOTALL)
    assert found, f"{page.name} has no {mark}"
    return found[1]


def run(code: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readmes_job_can_be_planned_and_its_questions_read(tmp_path):
    readme = ROOT / "README.md"
    run(heredoc(readme, "EOF_CLIPS"), tmp_path)
    job = tmp_path / "my-job" / "job.yaml"
    job.write_text(heredoc(readme, "EOF_JOB"))
    spec = resolve_paths(read_spec(job), job.parent)
    assert plan(spec)["name"] == "my-job"
    train, held_out = read_jsonl(spec.data.train), read_jsonl(spec.data.evaluation)
    assert (len(train), len(held_out)) == (64, 20)
    assert {q.answer for q in held_out} == {"high", "low"}


def test_the_synthetic_benchmark_is_written_as_the_data_page_says(tmp_path):
    code = next(b for b in blocks(ROOT / "docs" / "data.md", "python") if "make_benchmark" in b)
    home = tmp_path / run(code.replace("train=400, heldout=100", "train=40, heldout=10"), tmp_path).strip()
    assert len(read_jsonl(home / "train.jsonl")) == 40
    assert len(read_jsonl(home / "heldout.jsonl")) == 10


def test_the_question_files_of_the_data_page_are_read_in_their_formats(tmp_path):
    found = []
    for i, block in enumerate(blocks(ROOT / "docs" / "data.md", "json")):
        (tmp_path / f"{i}.jsonl").write_text(block, encoding="utf-8")
        read = read_questions(tmp_path / f"{i}.jsonl", check_audio=False)
        assert len(read.accepted()) == len(block.splitlines())
        found.append(read.source.format)
    assert sorted(found) == sorted(set(NAMES) - {"auto", "mapped"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_yaml_blocks_are_valid_in_a_job(page, tmp_path):
    least = {"model": {"path": "builtin:tiny-qwen2-audio"}, "data": {"train": "builtin:synthetic"}}
    for block in blocks(page, "yaml"):
        (tmp_path / "job.yaml").write_text(block)
        missing = {key: value for key, value in least.items() if not re.search(rf"^{key}:", block, re.MULTILINE)}
        plan(read_spec(tmp_path / "job.yaml", missing))


@pytest.mark.parametrize(
    "path", sorted((ROOT / "examples").glob("**/*.yaml")), ids=lambda p: f"{p.parent.name}-{p.name}"
)
def test_every_example_can_be_planned_as_it_is(path):
    planned = plan(resolve_paths(read_spec(path), path.parent))
    assert planned["memory_warnings"] == []
    learns = planned["job"]["method"] != "evaluate"
    assert (planned["memory_gib"]["learner_rank"] > 0) == (planned["learner_ranks"] > 0) == learns
    if path.parent.name == "paper":
        assert planned["gpus"] == 8
        assert set(planned["to_fill_in"]) == {"model.path", "data.evaluation"} | ({"data.train"} if learns else set())
        low, high = planned["time"]["hours"]
        assert 0 < low <= high
    else:
        assert (planned["gpus"], planned["to_fill_in"], planned["time"]) == (0, {}, None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"(?<!!)\[[^\]]*\]\(([^)#]+)[^)]*\)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page):
    for name in re.findall(r"`([a-z_]+/[\w/]+\.(?:py|txt|lock|yaml))`", page.read_text(encoding="utf-8")):
        assert (ROOT / name).is_file(), f"{page.name} names {name}, which is not there"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def test_a_job_needs_no_more_than_the_job_file_page_says():
    parse_spec({"model": {"path": "builtin:tiny-qwen2-audio"}, "data": {"train": "builtin:synthetic"}}, "least")
