"""Documents in a model's folder lead to no other files, and to no code: transformers and vLLM would follow them."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.models.folders import write_model
from support.runs.admitting import admitted, allowing

from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError

OTHER = {"audio_tokenizer_class": "AutoModel", "audio_tokenizer_name_or_path": "/srv/others/model"}


def admit(root: Path, model: Path) -> None:
    spec = {"model": {"path": str(model)}, "data": {"train": "builtin:synthetic"}}
    admitted(JobSpec.model_validate(spec), allowing(root))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "values", "named"),
    [
        ("processor_config.json", {"audio_tokenizer": OTHER}, "audio_tokenizer"),
        ("audio_tokenizer_config.json", OTHER, "audio_tokenizer_config.json"),
        ("tokenizer_config.json", {"fast_tokenizer_files": ["../others/tokenizer.1.0.0.json"]}, "fast_tokenizer_files"),
        ("config.json", {"attn_implementation": "someone/kernel"}, "someone/kernel"),
        ("config.json", {"_attn_implementation": {"text_config": "paged|someone/kernel"}}, "someone/kernel"),
        ("config.json", {"other": [{"experts_implementation": "someone/kernel:x"}]}, "someone/kernel"),
        ("config.json", {"speculators_config": {"verifier": {"name_or_path": "/srv/others/model"}}}, "speculators"),
    ],
)
def test_a_document_that_leads_out_of_the_folder_is_refused(
    model: Path, name: str, values: dict[str, Any], named: str
) -> None:
    file = model / name
    before = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**before, **values}))
    with pytest.raises(SpecError, match=f"model.path: .*{named}.*; (remove the|name the folder)"):
        admit(model.parent, model)


def test_what_names_files_and_code_of_its_own_is_admitted(model: Path) -> None:
    for name, values in (
        ("config.json", {"attn_implementation": "sdpa", "speculators_config": None}),
        ("tokenizer_config.json", {"fast_tokenizer_files": ["tokenizer.json"]}),
    ):
        file = model / name
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    admit(model.parent, model)
