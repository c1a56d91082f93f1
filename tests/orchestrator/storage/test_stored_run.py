"""A stored checkpoint is complete or ignored, and a fetched file is the stored one."""

import json
from pathlib import Path

import fsspec
import pytest
from support.storage import contents, spec_with, stored_at

from orchestrator.job.spec_file import SpecError
from orchestrator.storage.location import DamagedError, Location, StorageError
from orchestrator.storage.stored_model import fetch_model
from orchestrator.storage.stored_run import stored_run


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    (folder / "training_state").mkdir(parents=True)
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"one" * 5000)
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"two" * 5000)
    (folder / "config.json").write_text("{}")
    (folder / "training_state" / "job.json").write_text('{"accuracy": 0.5}')
    (folder / "training_state" / "rank-0.safetensors").write_bytes(b"")
    return folder


def test_a_stored_checkpoint_is_fetched(storage, checkpoint, tmp_path):
    run = stored_at(f"{storage}/run")
    assert run.job() is None
    assert run.manifests() == {}
    made = run.store(7, checkpoint, accuracy=0.5, logs={})
    again = stored_at(f"{storage}/run").manifests()
    assert again == {7: made}
    run.fetch(again[7], tmp_path / "fetched")
    assert contents(tmp_path / "fetched") == contents(checkpoint)
    assert made.bytes == sum(map(len, contents(checkpoint).values()))


def test_an_interrupted_checkpoint_is_ignored(storage, checkpoint, monkeypatch):
    run = stored_at(f"{storage}/run")
    run.store(7, checkpoint, accuracy=None, logs={})
    put, names = Location.put, []

    def fails(self, file: Path, name: str) -> None:
        names.append(name)
        if len(names) == 3:
            raise StorageError("gone")
        put(self, file, name)

    monkeypatch.setattr(Location, "put", fails)
    with pytest.raises(StorageError):
        run.store(8, checkpoint, accuracy=None, logs={})
    # Also one that replaces another.
    names.clear()
    with pytest.raises(StorageError):
        run.store(7, checkpoint, accuracy=None, logs={})
    monkeypatch.undo()
    assert run.manifests() == {}
    assert run.started() == [7, 8]
    run.remove(8)
    assert run.started() == [7]
    assert list(run.manifests()) == []
    run.store(7, checkpoint, accuracy=None, logs={})
    assert list(run.manifests()) == [7]


@pytest.mark.parametrize("change", ["other bytes", "shorter"])
def test_a_damaged_object_is_refused_by_its_name(storage, checkpoint, spoil, tmp_path, change):
    run = stored_at(f"{storage}/run")
    made = run.store(7, checkpoint, accuracy=None, logs={})
    url = f"{storage}/run/checkpoints/step-7/model-00002-of-00002.safetensors"
    spoil(url, b"tw0" + b"two" * 4999 if change == "other bytes" else b"two")
    with pytest.raises(DamagedError) as caught:
        run.fetch(made, tmp_path / "fetched")
    assert url in str(caught.value)
    assert f"remove {storage}/run/checkpoints/step-7" in str(caught.value)


def test_a_missing_object_is_named(storage, checkpoint, tmp_path):
    run = stored_at(f"{storage}/run")
    made = run.store(7, checkpoint, accuracy=None, logs={})
    url = f"{storage}/run/checkpoints/step-7/config.json"
    filesystem, path = fsspec.core.url_to_fs(url)
    filesystem.rm(path)
    with pytest.raises(StorageError, match=r"step-7/config\.json"):
        run.fetch(made, tmp_path / "fetched")


@pytest.mark.parametrize("text", ["", "[]", '{"format": 9}', '{"format": 1, "step": 7}', "half a manif"])
def test_a_damaged_manifest_is_named(storage, checkpoint, spoil, text):
    run = stored_at(f"{storage}/run")
    run.store(7, checkpoint, accuracy=None, logs={})
    spoil(f"{storage}/run/checkpoints/step-7/manifest.json", text.encode())
    with pytest.raises(DamagedError, match=r"step-7/manifest\.json"):
        run.manifests()


@pytest.mark.parametrize("name", ["../escaped", "/etc/escaped", "a/../../escaped"])
def test_a_manifest_writes_nothing_outside_its_folder(checkpoint, spoil, name):
    run = stored_at("memory://hostile/run")
    made = run.store(7, checkpoint, accuracy=None, logs={})
    value = json.loads(made.text())
    value["files"][name] = [1, "0"]
    spoil("memory://hostile/run/checkpoints/step-7/manifest.json", json.dumps(value).encode())
    with pytest.raises(DamagedError, match="not a file in its folder"):
        run.manifests()


def test_a_new_run_needs_a_free_name(storage, checkpoint):
    run = stored_at(f"{storage}/run")
    run.check_new()
    assert run.started() == []
    run.put_job("name: test\n")
    with pytest.raises(SpecError, match="already holds a run"):
        run.check_new()
    assert run.job() == "name: test\n"
    stored_at(f"{storage}/other").check_new()


def test_a_missing_bucket_is_found_at_the_start(s3):
    with pytest.raises(StorageError, match=r"s3://no-such-bucket/run/\.writable"):
        stored_at("s3://no-such-bucket/run").check_new()


def test_a_run_is_stored_by_the_name_of_its_directory(tmp_path):
    found = stored_run(spec_with("memory://runs/"), tmp_path / "my-run")
    assert found is not None
    assert found.url == "memory://runs/my-run"
    assert stored_run(spec_with(None), tmp_path / "my-run") is None


def test_the_model_of_a_stored_checkpoint_is_fetched_without_its_training_state(storage, checkpoint, spoil, tmp_path):
    stored_at(f"{storage}/run").store(7, checkpoint, accuracy=None, logs={})
    url = f"{storage}/run/checkpoints/step-7"
    folder = fetch_model(url, tmp_path / "cache")
    wanted = {name: data for name, data in contents(checkpoint).items() if not name.startswith("training_state")}
    assert contents(folder) == wanted
    spoil(f"{url}/config.json", b"[]")
    assert fetch_model(f"{url}/", tmp_path / "cache") == folder
    with pytest.raises(DamagedError, match=r"step-7/config\.json"):
        fetch_model(url, tmp_path / "another")
    assert not [p for p in (tmp_path / "another").rglob("*") if p.is_file()]
