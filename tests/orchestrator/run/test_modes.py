"""Files and folders of a run have the modes of ordinary new ones: others may read the weights if the umask says so."""

import asyncio
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.storage import stored_at

from audio_qa.dataset import write_jsonl
from audio_qa.synthetic.benchmark import load_split, make_benchmark
from audio_qa.whole_file import whole_file, whole_folder
from learner.checkpoint.export import write_checkpoint, write_index, write_shard
from learner.families.registry import family_of
from learner.messages import PhaseSettings
from learner.model.loading import load_model, load_processor
from learner.model.tensor_file import write_tensors
from learner.rank import LearnerRank
from learner.settings import LearnerSettings, OptimizerSettings
from orchestrator.display.report import write_report
from orchestrator.run.checkpoints import Checkpoints
from orchestrator.run.commands import CommandKind
from orchestrator.run.copies import copy_run
from orchestrator.run.directory import RunDirectory
from orchestrator.run.events import EventKind
from orchestrator.run.mailbox import send
from orchestrator.service.backup.database_copy import copy_sqlite
from orchestrator.service.store.database import Database, sqlite_url
from orchestrator.storage.stored_model import fetch_model
from orchestrator.tracking.tensorboard import TensorBoard
from orchestrator.training.state import RunState


@pytest.fixture(params=[0o022, 0o077], ids=oct)
def umask(request) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    found = {path.relative_to(folder).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}
    assert found
    return found


def assert_ordinary(folder: Path, umask: int) -> None:
    wrong = {
        name: oct(mode)
        for name, mode in modes(folder).items()
        if mode != (0o777 if (folder / name).is_dir() else 0o666) & ~umask
    }
    assert not wrong


def test_a_run_with_its_checkpoints_and_copies(umask, alone, tiny_folder, tmp_path):
    run = RunDirectory.create(tmp_path / "runs" / "run", "name: test\n")
    run.append_event(EventKind.CHECKPOINT, step=1, path="")
    run.append_metrics({"step": 1})
    send(run, CommandKind.PAUSE)
    tracker = TensorBoard(run.path)
    tracker.log(1, {"reward/mean": 0.5})
    tracker.close()
    rank = LearnerRank(0, 1, LearnerSettings.model_validate({"threads": 1}))
    rank.start_phase(str(tiny_folder), PhaseSettings(OptimizerSettings(), total_steps=1, max_tokens=4))
    checkpoints = Checkpoints(run, keep_last=0, keep_best=False)
    for step in (1, 2):
        rank.save(str(checkpoints.begin(step)), state=True)
        rank.wait_saved()
        checkpoints.commit(step, RunState(step=step, offsets=run.offsets()).to_dict())
    rank.engine.close()
    run.write_summary({"state": "succeeded"})
    run.write_evaluation({})
    write_report(run)

    url = f"file://{tmp_path}/storage/run"
    stored = stored_at(url)
    manifest = stored.store(1, run.checkpoint(1), accuracy=None, logs={})
    fetched = fetch_model(f"{url}/checkpoints/step-1", tmp_path / "cache")
    assert (fetched / "model.safetensors").is_file()
    checkpoints.remove(1)
    checkpoints.add(1, lambda folder: stored.fetch(manifest, folder))
    copy_run(run.path, tmp_path / "copy", "runs/run")
    assert_ordinary(tmp_path, umask)
    assert len(modes(tmp_path / "runs")) > 25


def test_models_and_questions_that_are_made(umask, tiny_folder, tmp_path):
    family, model = family_of(str(tiny_folder)), load_model(family_of(str(tiny_folder)), str(tiny_folder), "float32")
    for _ in range(2):
        write_checkpoint(tmp_path / "model", family, model, load_processor(str(tiny_folder)), {"note.json": "{}"})
    (tmp_path / "shards").mkdir()
    write_shard(tmp_path / "shards", {"a": torch.zeros(2)}, rank=1, ranks=2)
    write_index(tmp_path / "shards", {"a": 1}, [], ranks=2)
    write_tensors(tmp_path / "encoded.safetensors", {"encoded": torch.zeros(2)})
    benchmark = make_benchmark(tmp_path / "data", seed=1, train=40, heldout=10)
    write_jsonl(tmp_path / "questions.jsonl", load_split(benchmark, "train"))
    assert_ordinary(tmp_path, umask)


def test_what_replaces_a_file_of_another_mode_is_ordinary_again(umask, tmp_path):
    (tmp_path / "file").touch(mode=0o600)
    with whole_file(tmp_path / "file") as file:
        file.write(b"new")
    assert_ordinary(tmp_path, umask)


def test_nothing_is_left_where_writing_fails(tmp_path):
    for whole in (whole_file, whole_folder):
        with pytest.raises(RuntimeError), whole(tmp_path / ("🎺" * 60)):
            raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_database_with_tokens_is_for_its_owner_only(umask, tmp_path):
    async def make() -> None:
        database = Database(sqlite_url(tmp_path / "earshot.db"))
        await database.open()
        await database.close()

    asyncio.run(make())
    copy_sqlite(tmp_path / "earshot.db", tmp_path / "copy.db")
    assert set(modes(tmp_path).values()) == {0o600}
