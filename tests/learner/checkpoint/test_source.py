"""A checkpoint has the files of its model folder that training does not change, also those transformers refuses."""

import json
import os
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from support.learner import STEADY
from tokenizers import normalizers
from transformers import AutoConfig, AutoTokenizer

from audio_qa.processor import load_processor
from learner.checkpoint.source import SourceFiles
from learner.errors import CheckpointTrialError
from learner.families.registry import family_of
from learner.messages import PhaseSettings
from learner.model.loading import load_model
from protocol.checkpoint import kept_files

PHASE = PhaseSettings(STEADY, total_steps=4, max_tokens=10)
GENERATION = {"do_sample": False, "temperature": 0.7, "top_p": 0.9}


@pytest.fixture
def folder(tiny_folder, tmp_path) -> Path:
    """A copy of the tiny model's folder."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def changed(file: Path, **values) -> None:
    file.write_text(json.dumps((json.loads(file.read_text()) if file.is_file() else {}) | values))


def save(rank, folder: Path) -> Path:
    folder.mkdir()
    rank.save(str(folder), state=True)
    rank.wait_saved()
    rank.check_saved(str(folder))
    return folder


def contradictory_sampling(model: Path) -> None:
    """`GenerationConfig is invalid` on saving, though it is only warned of on loading."""
    changed(model / "generation_config.json", **GENERATION)


def sampling_in_the_configuration(model: Path) -> None:
    """`Generation parameters are set in the model config` on saving."""
    changed(model / "config.json", temperature=0.7, top_k=5)


def unknown_keys(model: Path) -> None:
    changed(model / "config.json", torch_dtype="bfloat16", house={"a": [1]}, transformers_version="4.40.1")
    changed(model / "generation_config.json", house_rule=1, eos_token_id=[2, 1])


def legacy_chat_template(model: Path) -> None:
    text = (model / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").unlink()
    (model / "chat_template.json").write_text(json.dumps({"chat_template": text}))


def more_chat_templates(model: Path) -> None:
    (model / "additional_chat_templates").mkdir()
    (model / "additional_chat_templates" / "tools.jinja").write_text("{{ messages }}")


def legacy_processor(model: Path) -> None:
    """The feature extractor in a file of its own, with a field that no class knows."""
    settings = json.loads((model / "processor_config.json").read_text())["feature_extractor"]
    (model / "processor_config.json").unlink()
    changed(model / "preprocessor_config.json", **settings, processor_class="Qwen2AudioProcessor", house_rule=7)


def normalizing_tokenizer(model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    tokenizer.backend_tokenizer.save(str(model / "tokenizer.json"))
    (model / "special_tokens_map.json").write_text("{}")


KINDS = (
    contradictory_sampling,
    sampling_in_the_configuration,
    unknown_keys,
    legacy_chat_template,
    more_chat_templates,
    legacy_processor,
    normalizing_tokenizer,
)


@pytest.mark.parametrize("change", KINDS)
def test_unchanged_files_are_the_same_bytes(make_rank, folder, tmp_path, change):
    change(folder)
    written = save(make_rank(PHASE, folder=folder), tmp_path / "trial")
    expected = {name: path.read_bytes() for name, path in kept_files(folder)}
    assert {name: path.read_bytes() for name, path in kept_files(written)} == expected
    assert expected
    config, source = (json.loads((place / "config.json").read_text()) for place in (written, folder))
    types = {key: "float32" for key in ("dtype", "torch_dtype") if key in source} or {"dtype": "float32"}
    assert config == {**source, **types, "architectures": ["Qwen2AudioForConditionalGeneration"]}
    AutoConfig.from_pretrained(written)
    assert load_processor(str(written)).chat_template == load_processor(str(folder)).chat_template


def test_the_type_of_the_weights_is_that_of_the_job(folder, tmp_path):
    changed(folder / "config.json", torch_dtype="float16", dtype=None)
    family = family_of(str(folder))
    SourceFiles.read(str(folder)).write(tmp_path, family, load_model(family, str(folder), "bfloat16"))
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert str(AutoConfig.from_pretrained(tmp_path).dtype) == "torch.bfloat16"


def test_files_of_other_purposes_stay_behind(make_rank, folder, tmp_path):
    """A folder may be an earlier checkpoint, with its training state, or a clone of a repository."""
    for name in ("README.md", "LICENSE", "earshot.json", "training_state/job.json", "training_state/learner.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    written = save(make_rank(PHASE, folder=folder), tmp_path / "trial")
    kept = {name for name, _ in kept_files(folder)}
    state = {"training_state/learner.json", "training_state/rank-0.safetensors"}
    files = {path.relative_to(written).as_posix() for path in written.rglob("*") if path.is_file()}
    assert files == kept | state | {"config.json", "model.safetensors"}


def test_the_model_folder_may_be_gone_or_changed_when_a_checkpoint_is_written(make_rank, folder, tmp_path):
    content = (folder / "tokenizer.json").read_bytes()
    rank = make_rank(PHASE, folder=folder)
    shutil.rmtree(folder)
    assert (save(rank, tmp_path / "trial") / "tokenizer.json").read_bytes() == content


def test_a_folder_of_links_is_copied_as_files(make_rank, folder, tmp_path):
    """Hugging Face's cache has links to files with other names."""
    linked = tmp_path / "snapshot"
    linked.mkdir()
    for i, path in enumerate(sorted(folder.iterdir())):
        shutil.move(path, folder / f"blob{i}")
        (linked / path.name).symlink_to(Path("..") / "model" / f"blob{i}")
    written = save(make_rank(PHASE, folder=linked), tmp_path / "trial")
    assert not [path for path in written.rglob("*") if path.is_symlink()]
    assert (written / "tokenizer.json").read_bytes() == (linked / "tokenizer.json").read_bytes()


def without_a_weight(trial: Path) -> None:
    tensors = load_file(trial / "model.safetensors")
    tensors.popitem()
    save_file(tensors, trial / "model.safetensors")


def with_another_shape(trial: Path) -> None:
    tensors = load_file(trial / "model.safetensors")
    name = next(name for name, value in tensors.items() if value.ndim == 2)
    save_file(tensors | {name: tensors[name].T.contiguous()[:1]}, trial / "model.safetensors")


def cut_short(trial: Path) -> None:
    os.truncate(trial / "model.safetensors", (trial / "model.safetensors").stat().st_size - 1)


def without_state(trial: Path) -> None:
    (trial / "training_state" / "rank-0.safetensors").unlink()


def without_tokenizer(trial: Path) -> None:
    (trial / "tokenizer.json").unlink()


def with_another_end(trial: Path) -> None:
    changed(trial / "generation_config.json", eos_token_id=[5])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (without_a_weight, "1 of"),
        (with_another_shape, "1 of"),
        (cut_short, "cannot be read"),
        (without_state, "trainable parameters"),
        (without_tokenizer, "cannot be read|tokenizer differs"),
        (with_another_end, "would end at tokens"),
    ],
)
def test_a_checkpoint_that_is_not_the_model_is_found(make_rank, tmp_path, damage, words):
    rank = make_rank(PHASE)
    written = save(rank, tmp_path / "trial")
    damage(written)
    with pytest.raises(CheckpointTrialError, match=words):
        rank.check_saved(str(written))
