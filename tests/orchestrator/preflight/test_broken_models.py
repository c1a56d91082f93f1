"""A model folder that is not whole ends every command with one line before anything is started."""

import json
import time
from math import prod
from pathlib import Path

import pytest
import yaml
from support.models.documents import BROKEN
from support.models.folders import change_json, config_of, shapes_of, write_7b, write_model, write_weights
from support.runs.admitting import admitted, allowing
from typer.testing import CliRunner

from audio_qa.families import FACTS
from audio_qa.model_folder.documents import ModelError
from audio_qa.model_folder.folder import check_folder
from orchestrator.cli.main import app
from orchestrator.job.memory.published import PUBLISHED
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError
from orchestrator.preflight.model_folder import check_model_folder
from orchestrator.preflight.plan import model_sizes

DATA = {"train": "builtin:synthetic", "evaluation": "builtin:synthetic"}


def job_about(model: str) -> dict[str, object]:
    return {"model": {"path": model, "max_context": 128}, "data": DATA, "steps": 1, "rollout": {"max_tokens": 16}}


def admit(root: Path, model: str) -> None:
    admitted(JobSpec.model_validate(job_about(model)), allowing(root))


def commands(home: Path, model: str) -> list[list[str]]:
    """Return the commands that take a model, with everything but the model right."""
    job = home / "job.yaml"
    job.write_text(yaml.safe_dump(job_about(model)), encoding="utf-8")
    questions = ["--train", "builtin:synthetic", "--evaluation", "builtin:synthetic"]
    run = str(home / "run")
    return [
        ["run", str(job), "--dry-run"],
        ["run", str(job), "--run-dir", run],
        ["evaluate", model],
        ["data", "check", str(job)],
        ["data", "filter", str(job), "--output", str(home / "kept.jsonl")],
        ["reproduce", "--rows", "zero_shot", "--model", model, *questions, "--run-dir", run],
    ]


def one_line(command: list[str]) -> str:
    """Return the only line that a command writes before it ends with exit code 2."""
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2, (command, done.output, done.exception)
    assert done.stdout == "", command
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("earshot: "), (command, done.stderr)
    return lines[0]


@pytest.fixture(autouse=True)
def in_a_cache_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("EARSHOT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_folder_ends_a_command_with_one_line(kind: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "my möbel")
    words = BROKEN[kind](folder)
    named = commands(tmp_path, str(folder))
    # Every command for some kinds of damage.
    line = one_line(named[list(BROKEN).index(kind) % len(named)])
    assert str(folder) in line
    for word in words:
        assert word in line, (word, line)
    assert len(line) - line.count(str(tmp_path)) * len(str(tmp_path)) < 400, line
    assert "Traceback" not in line
    assert not (tmp_path / "run").exists()
    with pytest.raises(SpecError, match=r"^model\.path: ") as refused:
        admit(tmp_path, str(folder))
    assert all(word in str(refused.value) for word in words)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("Qwen/Qwen2-Audio-7B-Instruct", ["hf download Qwen/Qwen2-Audio-7B-Instruct --local-dir", "name that folder"]),
        ("hf:Qwen/Qwen2-Audio-7B", ["hf download Qwen/Qwen2-Audio-7B --local-dir", "name that folder"]),
        ("file", ["'{home}/file' is not a folder", "name the folder of the checkpoint"]),
        ("nowhere", ["is not a folder", "name one with a Hugging Face checkpoint"]),
        ("x" * 300, ["cannot be read", "name another"]),
    ],
)
def test_a_path_without_a_folder_is_refused_with_what_to_do(path: str, words: list[str], tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    for command in commands(tmp_path, path):
        line = one_line(command)
        for word in words:
            assert word.format(home=tmp_path) in line or (command[0] == "evaluate" and path == "file"), line


def test_a_storage_is_not_a_models_folder(tmp_path: Path) -> None:
    run = [command for command in commands(tmp_path, "s3://bucket/run/checkpoints/step-10") if command[0] != "evaluate"]
    for command in run:
        assert "copy the files at this URL to a folder" in one_line(command)


@pytest.mark.parametrize("model_type", FACTS)
@pytest.mark.parametrize("shards", [1, 3])
def test_a_whole_folder_is_planned_whatever_its_name(model_type: str, shards: int, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "ein ordner mit ü und 声", model_type, shards)
    shapes = shapes_of(config_of(model_type))
    spec = JobSpec.model_validate(job_about(f"{folder}/"))
    parameters = sum(prod(shape) for shape in shapes.values())
    assert model_sizes(spec).total == parameters
    admit(tmp_path, f"{folder}/")
    done = CliRunner().invoke(app, [*commands(tmp_path, f"{folder}/")[0], "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["parameters"] == parameters


def test_a_copy_beside_shards_is_not_counted(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", shards=3)
    before = model_sizes(JobSpec.model_validate(job_about(str(folder))))
    write_weights(folder / "consolidated.safetensors", shapes_of(config_of("qwen2_audio")))
    assert model_sizes(JobSpec.model_validate(job_about(str(folder)))) == before


def test_a_snapshot_in_the_hubs_cache_is_whole(tmp_path: Path) -> None:
    made, snapshot = write_model(tmp_path / "made", shards=3), tmp_path / "hub" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "hub" / "blobs").mkdir()
    for i, path in enumerate(sorted(made.iterdir())):
        path.rename(tmp_path / "hub" / "blobs" / str(i))
        (snapshot / path.name).symlink_to(f"../../blobs/{i}")
    check_model_folder(str(snapshot))
    admit(tmp_path, str(snapshot))


def test_tied_embeddings_need_no_head(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "qwen2_5_omni")
    config = config_of("qwen2_5_omni")
    config["thinker_config"]["tie_word_embeddings"] = True
    config["thinker_config"]["text_config"]["tie_word_embeddings"] = True
    change_json(folder / "config.json", **config)
    shapes = shapes_of(config)
    assert "thinker.lm_head.weight" not in shapes
    write_weights(folder / "model.safetensors", shapes)
    check_folder(str(folder))


@pytest.mark.parametrize(
    ("change", "windows"),
    [
        ({"use_sliding_window": True}, False),
        ({"use_sliding_window": True, "max_window_layers": 1}, True),
        ({"use_sliding_window": True, "max_window_layers": 1, "sliding_window": None}, False),
        ({"use_sliding_window": False, "max_window_layers": 0, "sliding_window": 32}, False),
        ({"layer_types": ["full_attention", "sliding_attention"]}, True),
        ({"layer_types": ["full_attention"] * 2, "use_sliding_window": True, "max_window_layers": 0}, False),
    ],
)
def test_sliding_windows_are_asked_and_not_trained(change: dict[str, object], windows: bool, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    change_json(folder / "config.json", text_config=config_of("qwen2_audio")["text_config"] | change)
    job = job_about(str(folder))
    if windows:
        assert "sliding window cannot be trained" in one_line(commands(tmp_path, str(folder))[0])
    else:
        model_sizes(JobSpec.model_validate(job))
    del job["steps"]
    model_sizes(JobSpec.model_validate(job | {"method": "evaluate"}))


def test_other_files_beside_the_model_do_not_matter(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    for name in ("training_args.bin", "README.md", "pytorch_model.bin", "picture.png"):
        (folder / name).write_text("version https://git-lfs.github.com/spec/v1\n")
    for name in ("trainer_state.json", "all_results.json", "notes.txt"):
        (folder / name).write_text("version https://git-lfs.github.com/spec/v1\n")
    (folder / "optimizer.pt").symlink_to("nowhere")
    (folder / "eval_results.json").symlink_to("nowhere")
    (folder / "._model.safetensors").write_bytes(b"\0\5\x16\7")
    (folder / "training_state").mkdir()
    check_folder(str(folder))


def test_buffers_that_older_versions_saved_do_not_matter(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    buffer = {"language_model.model.layers.0.self_attn.rotary_emb.inv_freq": [1]}
    write_weights(folder / "model.safetensors", shapes_of(config_of("qwen2_audio")) | buffer)
    check_folder(str(folder))


def test_a_vocabulary_and_its_merges_are_a_tokenizer(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text('{"a": 0, "b": 1, "ab": 2, "abb": 3, "<|im_end|>": 4}')
    (folder / "merges.txt").write_text("#version: 0.2\na b\nab b\n")
    check_folder(str(folder))
    (folder / "merges.txt").write_text("#version: 0.2\na b\n")
    with pytest.raises(ModelError, match=r"merges.txt has 1 lines, and the tokens of vocab.json need 2; download"):
        check_folder(str(folder))


def test_a_file_without_the_right_to_read_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model(tmp_path / "model")
    opened = Path.open

    def refuse(self: Path, *arguments: object, **options: object) -> object:
        if self.name == "tokenizer.json":
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(SpecError, match=r"tokenizer.json' cannot be read \(Permission denied\); grant the right"):
        check_model_folder(str(folder))


def test_a_folder_of_7b_is_checked_at_once(tmp_path: Path) -> None:
    folder = write_7b(tmp_path / "model")
    start = time.process_time()  # other processes do not count
    sizes = model_sizes(JobSpec.model_validate(job_about(str(folder))))
    assert time.process_time() - start < 1
    assert sizes == PUBLISHED["Qwen2-Audio-7B"]
