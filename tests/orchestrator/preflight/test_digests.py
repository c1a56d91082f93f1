"""Digests of inputs: what they notice, what they do not depend on, and what they cost."""

import json
import os
import shutil
import struct
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from audio_qa.question import Question
from orchestrator.job.spec_file import SpecError
from orchestrator.preflight.digests import clips_digest, code_digest, model_digest, questions_digest


def sparse_weights(path: Path, tensors: int, matrix_bytes: int) -> None:
    """Write a safetensors file of a realistic layout, of which only the header takes space on disk."""
    header, end = {}, 0
    for i in range(tensors):
        size = matrix_bytes if i % 3 else 8192
        header[f"layers.{i}.weight"] = {"dtype": "BF16", "shape": [size // 2], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def reads_of(monkeypatch) -> list[int]:
    """Return a list that gets the length of every read at a place of a file."""
    lengths: list[int] = []
    really = os.pread
    monkeypatch.setattr(os, "pread", lambda *place: lengths.append(place[1]) or really(*place))
    return lengths


def test_of_seven_billion_parameters_few_megabytes_are_read(tmp_path, monkeypatch):
    for shard in range(4):
        sparse_weights(tmp_path / f"model-{shard}.safetensors", 250, 22_000_000)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) > 14e9
    read = reads_of(monkeypatch)
    before = model_digest(tmp_path)
    assert len(read) <= 5 * 1000
    assert sum(read) < 20e6
    # One matrix in the last shard.
    with (tmp_path / "model-3.safetensors").open("r+b") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        start = file.tell() + header["layers.247.weight"]["data_offsets"][0]
        file.seek(start)
        file.write(os.urandom(22_000_000))
    assert model_digest(tmp_path) != before


def test_a_change_in_any_single_tensor_is_noticed(tiny_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    tensors = load_file(folder / "model.safetensors")
    digests = {model_digest(folder)}
    some = [*tensors][:: max(1, len(tensors) // 12)]
    for name in some:
        save_file(tensors | {name: tensors[name] * np.float32(1.001) + 1e-3}, folder / "model.safetensors")
        digests.add(model_digest(folder))
    assert len(digests) == len(some) + 1


def test_only_what_is_loaded_of_a_model_counts(tiny_folder, tmp_path):
    folder = tmp_path / "elsewhere"
    shutil.copytree(tiny_folder, folder)
    (folder / "README.md").write_text("a model card")
    (folder / ".gitattributes").write_text("*.safetensors")
    (folder / "training_state").mkdir()
    (folder / "training_state" / "job.json").write_text("{}")
    assert model_digest(folder) == model_digest(tiny_folder)
    for name in ("config.json", "processor_config.json", "tokenizer.json"):
        before = model_digest(folder)
        (folder / name).write_text((folder / name).read_text() + " ")
        assert model_digest(folder) != before
    before = model_digest(folder)
    (folder / "chat_template.jinja").write_text("{{ messages }} ")
    assert model_digest(folder) != before


def test_a_damaged_header_does_not_stop_the_digest(tmp_path):
    file = tmp_path / "model.safetensors"
    digests = set()
    for content in (b"", b"\xff" * 9, b"x" * 5_000_000, struct.pack("<Q", 9) + b'{"a": 1} ' + b"y" * 10):
        file.write_bytes(content)
        digests.add(model_digest(tmp_path))
    assert len(digests) == 4


def test_clips_count_by_their_sound_and_not_by_their_folder(tmp_path):
    paths = []
    for i in range(3):
        path = tmp_path / f"{i}.wav"
        path.write_bytes(b"RIFF" + bytes([i]) * 200_000)
        paths.append(str(path))
    before = clips_digest([*paths, paths[0]])
    shutil.copytree(tmp_path, tmp_path / "copy")
    there = [str(tmp_path / "copy" / Path(path).name) for path in paths]
    assert clips_digest([*there, there[0]]) == before
    assert clips_digest([*paths[::-1], paths[0]]) != before
    Path(there[1]).write_bytes(b"RIFF" + bytes([7]) * 200_000)
    assert clips_digest([*there, there[0]]) != before
    Path(there[1]).unlink()
    with pytest.raises(SpecError, match=r"1\.wav': the clip cannot be read: No such file"):
        clips_digest(there)


def test_a_clip_costs_four_small_reads(tmp_path, monkeypatch):
    """38,000 clips take a few seconds on a local disk."""
    paths = [str(tmp_path / f"{i}.wav") for i in range(200)]
    for path in paths:
        with Path(path).open("wb") as file:
            file.truncate(320_000)
    read = reads_of(monkeypatch)
    clips_digest([*paths, *paths])
    assert (len(read), sum(read)) == (200 * 4, 200 * 4 * 4096)


def test_questions_count_by_everything_but_the_place_of_their_clip():
    one = Question("train", 0, "q", "/a/1.wav", "What?", ("a", "b"), "a", "sound", "event", "hard", "bell")
    changed = {
        "dataset": "other",
        "index": 1,
        "id": "r",
        "text": "Who?",
        "choices": ("b", "a"),
        "answer": "b",
        "task": "music",
        "category": "tempo",
        "difficulty": "easy",
        "sub_category": "gong",
    }
    assert changed.keys() | {"audio"} == {field.name for field in fields(Question)}
    digests = {questions_digest([replace(one, **{name: value})]) for name, value in changed.items()}
    assert len(digests | {questions_digest([one])}) == len(changed) + 1
    assert questions_digest([replace(one, audio="/b/1.wav")]) == questions_digest([one])


def test_code_is_found_without_being_imported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stop = "raise SystemExit('imported')\n"
    (tmp_path / "single_rule.py").write_text(stop)
    package = tmp_path / "on_path" / "rule_package"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text(stop)
    (package / "inner" / "rules.py").write_text(stop)
    (package / "words.txt").write_text("not code")
    (tmp_path / "on_path" / "without_init").mkdir()
    (tmp_path / "on_path" / "without_init" / "rules.py").write_text(stop)
    monkeypatch.syspath_prepend(tmp_path / "on_path")
    found = {name: code_digest(name) for name in ("single_rule", "rule_package", "without_init")}
    assert {name: value and value[1] for name, value in found.items()} == {
        "single_rule": str(tmp_path / "single_rule.py"),
        "rule_package": str(package),
        "without_init": str(tmp_path / "on_path" / "without_init"),
    }
    assert not {"single_rule", "rule_package", "without_init"} & sys.modules.keys()
    (package / "words.txt").write_text("other words")
    assert code_digest("rule_package") == found["rule_package"]
    (package / "inner" / "rules.py").rename(package / "inner" / "others.py")
    assert code_digest("rule_package") != found["rule_package"]
    assert code_digest("not_installed_anywhere") is None
    assert code_digest("sys") is None
