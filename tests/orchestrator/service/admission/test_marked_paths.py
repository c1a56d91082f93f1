"""Every field of a job that is marked as a path is confined to the roots."""

from dataclasses import replace
from pathlib import Path

import pytest
from support.models.folders import write_model
from support.runs.admitting import admitted, allowing

from orchestrator.job.allowed import Allowed
from orchestrator.job.marked import marked_names, marked_values, replace_marked
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError
from protocol.marks import PathTo

PATHS = tuple(marked_names(JobSpec, tuple(PathTo)))
BUILT_IN = JobSpec.model_validate(
    {
        "model": {"path": "builtin:tiny-qwen2-audio", "max_context": 512},
        "data": {"train": "builtin:synthetic", "evaluation": "builtin:synthetic", "curriculum": {"measured": "m"}},
        "learner": {"audio_cache": {"folder": "c"}},
    }
)


def _allowed(root: Path) -> Allowed:
    return replace(allowing(root), caches=(str(root),))


def _with_path(root: Path, name: str, path: str) -> JobSpec:
    """A job in which one field holds `path` and all others are allowed."""
    data = BUILT_IN.data.model_copy(update={"audio_root": str(root), "evaluation_audio_root": str(root)})
    inside = {"m": str(root / "samples.jsonl"), "c": str(root / "cache")}
    job = BUILT_IN.model_copy(update={"data": data})
    spec = replace_marked(job, tuple(PathTo), lambda _, value: inside.get(value, value))
    return replace_marked(spec, tuple(PathTo), lambda key, value: path if key == name else value)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder that jobs may read, with a file of solve rates; beside it is a folder that they may not."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "samples.jsonl").write_text("")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("")
    return tmp_path / "root"


def test_a_job_within_the_roots_is_admitted_with_every_path(root: Path):
    spec = _with_path(root, "", "")
    assert [name for name, _ in marked_values(spec, tuple(PathTo))] == list(PATHS)
    assert admitted(spec, _allowed(root)).spec == spec


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"])
def test_no_file_of_a_model_leads_outside_the_roots(root: Path, name: str):
    """The message does not show what is in the file."""
    folder, outside = write_model(root / "model"), root.parent / "outside" / "secret"
    outside.write_text("password")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(outside)
    with pytest.raises(SpecError, match="is not under the folders this service may read") as refused:
        admitted(_with_path(root, "model.path", str(folder)), _allowed(root))
    assert "password" not in str(refused.value)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("leaf", ["", "file"])
def test_no_marked_path_leads_outside_the_roots(root: Path, name: str, leaf: str):
    spec = _with_path(root, name, str(root.parent / "outside" / leaf))
    with pytest.raises(SpecError, match=f"^{name}: "):
        admitted(spec, _allowed(root))
