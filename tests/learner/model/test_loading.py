"""The learner loads safetensors that are the model's, and nothing else; pickled weights can be converted."""

import json
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from support.families.tiny import TINY, write_tiny

from audio_qa.model_folder.architecture import needed_weights
from audio_qa.model_folder.documents import ModelError, document
from audio_qa.model_folder.folder import check_folder
from audio_qa.model_folder.layouts import LAYOUTS
from audio_qa.model_folder.weights import stored_weights
from learner.families.registry import family_of
from learner.model.convert import convert, main
from learner.model.loading import load_model, load_processor
from learner.model.weights import weights_of

SINGLE = "model.safetensors"


@pytest.fixture(scope="module", params=TINY)
def folder(request, tmp_path_factory) -> Path:
    return write_tiny(request.param, tmp_path_factory.mktemp("models") / request.param)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder, tmp_path / "copy")


def one_line(error: pytest.ExceptionInfo[ModelError]) -> str:
    message = str(error.value)
    assert "\n" not in message and len(message) < 600
    return message


def test_the_needed_weights_are_those_of_the_model(folder: Path):
    facts = family_of(str(folder)).facts
    stored = stored_weights(folder)
    needed = set(needed_weights(facts, document(folder / "config.json"), stored))
    # The parts that audio questions do not use.
    unused = {name for name in stored if ".visual." in name or "audio_bos_eos_token" in name}
    assert needed == set(stored) - unused


def test_weights_of_another_model_are_named(copy: Path):
    family = family_of(str(copy))
    tensors = load_file(copy / SINGLE)
    prefix, tower = family.facts.weights, LAYOUTS[family.facts.model_type].tower
    lacking, reshaped = [name for name in tensors if name.startswith(tower) and name.endswith(".bias")][:2]
    del tensors[lacking]
    tensors[reshaped] = torch.zeros(7)
    tensors |= {f"{prefix}adapter.weight": torch.zeros(3), f"{prefix}rotary_emb.inv_freq": torch.zeros(3)}
    save_file(tensors, copy / SINGLE, metadata={"format": "pt"})
    with pytest.raises(ModelError) as error:
        load_model(family, str(copy), "float32")
    message = one_line(error)
    # transformers has names of its own for what precedes the layers.
    part = lacking.removeprefix(tower), reshaped.removeprefix(tower)
    assert "lacks 1 parameters" in message and part[0] in message
    assert "in another shape 1 parameters" in message and part[1] in message
    assert "without a place in the model 1 parameters" in message and "adapter.weight" in message


def test_pickled_weights_are_not_loaded(copy: Path):
    torch.save(load_file(copy / SINGLE), copy / "pytorch_model.bin")
    (copy / SINGLE).unlink()
    with pytest.raises(ModelError, match="the model cannot be loaded") as error:
        load_model(family_of(str(copy)), str(copy), "float32")
    assert SINGLE in one_line(error)


def test_cut_weights_are_not_loaded(copy: Path):
    content = (copy / SINGLE).read_bytes()
    (copy / SINGLE).write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="the model cannot be loaded") as error:
        load_model(family_of(str(copy)), str(copy), "float32")
    one_line(error)
    with pytest.raises(ModelError, match="is cut: it has"):
        check_folder(str(copy))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("tokenizer.json", '{"model": {"type": "BPE"}, "added_tokens": []}', "its processor cannot be loaded"),
        ("processor_config.json", '{"feature_extractor": {"sampling_rate": []}}', "its processor cannot be loaded"),
        ("config.json", None, "its config.json cannot be loaded"),
    ],
)
def test_a_processor_that_cannot_be_loaded_is_one_line(copy: Path, name: str, content: str | None, says: str):
    if content is None:
        config = json.loads((copy / name).read_text())
        thinker = config.get("thinker_config", config)
        thinker["text_config"]["rms_norm_eps"] = "small"
        content = json.dumps(config)
    (copy / name).write_text(content)
    with pytest.raises(ModelError, match=says) as error:
        load_processor(str(copy))
    assert str(copy) in one_line(error)


@pytest.mark.parametrize("shards", [1, 2])
def test_pickled_weights_are_converted(copy: Path, shards: int, capsys, monkeypatch):
    tensors = load_file(copy / SINGLE)
    # As tied embeddings are pickled: two names for one storage.
    first = next(iter(tensors))
    whole = dict(tensors)
    (copy / SINGLE).unlink()
    names = list(tensors)
    parts = [names[: len(names) // 2], names[len(names) // 2 :]] if shards == 2 else [names]
    for i, part in enumerate(parts):
        file = "pytorch_model.bin" if shards == 1 else f"pytorch_model-{i + 1:05d}-of-00002.bin"
        torch.save({name: tensors[name] for name in part}, copy / file)
    with pytest.raises(
        ModelError, match=r"convert pytorch_model.*\.bin with: python -m learner\.model\.convert"
    ) as error:
        check_folder(str(copy))
    command = str(error.value).partition("python -m learner.model.convert ")[2]
    monkeypatch.setattr(sys, "argv", ["convert", command.strip("'")])
    main()
    assert len(capsys.readouterr().out.splitlines()) == (1 if shards == 1 else 3)
    check_folder(str(copy))
    family = family_of(str(copy))
    loaded = {weight.name: weight.value() for weight in weights_of(family, load_model(family, str(copy), "float32"))}
    assert torch.equal(loaded[first], whole[first])
    assert all(torch.equal(loaded[name], value) for name, value in whole.items() if name in loaded)
    with pytest.raises(ModelError, match="exists; remove it"):
        convert(copy)


def test_tied_tensors_are_converted(tmp_path: Path):
    shared = torch.arange(6.0).reshape(2, 3)
    torch.save({"embedding": shared, "head": shared, "turned": shared.T}, tmp_path / "pytorch_model.bin")
    convert(tmp_path)
    written = load_file(tmp_path / SINGLE)
    assert torch.equal(written["embedding"], shared) and torch.equal(written["head"], shared)
    assert torch.equal(written["turned"], shared.T)


class _Runs:
    def __reduce__(self):
        return (exit, ())


@pytest.mark.parametrize(
    "content", [b"", b"no pickle", pickle.dumps(_Runs(), 2), "list"], ids=["empty", "text", "a call", "a list"]
)
def test_what_is_not_weights_is_not_converted(content: bytes | str, tmp_path: Path):
    path = tmp_path / "pytorch_model.bin"
    if isinstance(content, str):
        torch.save([torch.zeros(1)], path)
    else:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"pytorch_model\.bin'"):
        convert(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["pytorch_model.bin"]


def test_a_model_that_peft_has_merged_is_whole(folder: Path, tmp_path: Path):
    family = family_of(str(folder))
    model = family.model_class.from_pretrained(folder, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    adapted.save_pretrained(tmp_path / "adapter")
    load_processor(str(folder)).save_pretrained(tmp_path / "adapter")
    shutil.copy(folder / "config.json", tmp_path / "adapter")
    with pytest.raises(ModelError, match="holds an adapter"):
        check_folder(str(tmp_path / "adapter"))
    merged = adapted.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    load_processor(str(folder)).save_pretrained(tmp_path / "merged")
    if family.facts.weights == "thinker.":
        # transformers saves the thinker alone.
        with pytest.raises(ModelError, match="is a thinker alone"):
            check_folder(str(tmp_path / "merged"))
    else:
        check_folder(str(tmp_path / "merged"))
        load_model(family, str(tmp_path / "merged"), "float32")
