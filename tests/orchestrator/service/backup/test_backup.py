"""`earshot backup` and `earshot restore`: the copy equals the original; errors are reported before anything is
written."""

import asyncio
import json
import shutil
import threading
from pathlib import Path

import pytest
from support.postgres import Postgres, small_spec
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.places import database_of, runs_of
from orchestrator.run.commands import CommandKind
from orchestrator.run.copies import copy_run
from orchestrator.run.directory import RunDirectory
from orchestrator.run.mailbox import send
from orchestrator.schemas.job_state import JobState
from orchestrator.service.store.access import Role
from orchestrator.service.store.credentials import new_token, token_hash
from orchestrator.service.store.store import Store

TOKEN = new_token()


async def fill(url: str, data: Path) -> str:
    """Add a running job, a queued one and a token; return the id of the running one."""
    async with Store(url, runs_of(data)) as store:
        await store.create_token(name="ann", owner="ann", role=Role.ADMIN, token_hash=token_hash(TOKEN))
        job, _ = await store.submit(small_spec(), owner="ann")
        await store.submit(small_spec(name="second"), owner="ann")
        await store.transition(job.id, JobState.QUEUED, JobState.STARTING, attempt=1)
        job = await store.transition(job.id, JobState.STARTING, JobState.RUNNING)
    run = RunDirectory.create(job.run_dir, "name: small\n")
    run.append_event("state", state="running")
    run.append_metrics({"step": 1, "reward/mean": 0.5})
    send(run, CommandKind.PAUSE)
    state = run.checkpoint(1) / "training_state"
    state.mkdir(parents=True)
    (state / "job.json").write_text('{"step": 1}')
    (run.checkpoint(1) / "model.safetensors").write_bytes(bytes(range(256)) * 100)
    return job.id


async def check(url: str, data: Path, job_id: str) -> None:
    """Check that a store has the content of `fill`, with the paths of existing run directories."""
    async with Store(url, runs_of(data)) as store:
        job = await store.get(job_id)
        assert job.state is JobState.RUNNING and job.owner == "ann"
        assert Path(job.run_dir) == runs_of(data) / job_id
        assert len((await store.list()).items) == 2
        assert len(await store.history(job_id)) == 3
        found = await store.find_token(token_hash(TOKEN))
        assert found is not None and found.role is Role.ADMIN
        assert Path(job.run_dir, "checkpoints", "step-1", "model.safetensors").stat().st_size == 25_600
        assert RunDirectory(job.run_dir).metrics() == [{"step": 1, "reward/mean": 0.5}]
        # The next job gets a new number.
        _, made = await store.submit(small_spec(name="third"), owner="ann")
        assert made and len((await store.list()).items) == 3


def earshot(*arguments: object, code: int = 0) -> str:
    """Run a command; return its stdout, or the one line on stderr if it fails."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, (done.output, done.exception)
    if code:
        assert done.stdout == "" and len(done.stderr.splitlines()) == 1, done.output
        return done.stderr
    return done.stdout


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a data directory; the id of its running job is the name of its run directory."""
    folder = tmp_path / "data"
    folder.mkdir()
    asyncio.run(fill(database_of(folder), folder))
    (folder / "ray_token").write_text("of this Ray only")
    return folder


@pytest.fixture
def saved(data: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "backups" / "monday"
    earshot("backup", folder, "--data-dir", data)
    return folder


def job_of(data: Path) -> str:
    (run,) = runs_of(data).iterdir()
    return run.name


def test_a_backup_is_restored_elsewhere(data: Path, tmp_path: Path) -> None:
    job = job_of(data)
    made = json.loads(earshot("backup", tmp_path / "saved", "--data-dir", data, "--json"))
    assert (made["jobs"], made["runs"]) == (2, 1)
    before = tree(runs_of(data))
    shutil.rmtree(data)
    elsewhere = tmp_path / "elsewhere"
    done = json.loads(earshot("restore", tmp_path / "saved", "--data-dir", elsewhere, "--json"))
    assert done == made | {"path": str(elsewhere)}
    assert tree(runs_of(elsewhere)) == before
    assert elsewhere.stat().st_mode & 0o777 == 0o700
    asyncio.run(check(database_of(elsewhere), elsewhere, job))


def test_the_destination_may_be_an_empty_folder(data: Path, tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "again").mkdir()
    earshot("backup", tmp_path / "saved", "--data-dir", data)
    assert "2 jobs and 1 run directories are restored" in earshot(
        "restore", tmp_path / "saved", "--data-dir", tmp_path / "again"
    )


def test_a_backup_contains_no_secret(saved: Path) -> None:
    for name, content in tree(saved).items():
        assert TOKEN.encode() not in content and b"of this Ray only" not in content, name


def test_a_backup_is_made_while_others_write(data: Path, tmp_path: Path) -> None:
    stop = threading.Event()

    async def write() -> None:
        async with Store(database_of(data), runs_of(data)) as store:
            while not stop.is_set():
                await store.submit(small_spec(), owner="bob")

    run = RunDirectory(runs_of(data) / job_of(data))

    def append() -> None:
        while not stop.is_set():
            run.append_event("note", text="x" * 1000)

    threads = [threading.Thread(target=lambda: asyncio.run(write())), threading.Thread(target=append)]
    for thread in threads:
        thread.start()
    try:
        for i in range(3):
            earshot("backup", tmp_path / f"saved-{i}", "--data-dir", data)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    for i in range(3):
        earshot("restore", tmp_path / f"saved-{i}", "--data-dir", tmp_path / f"data-{i}")
        copy = RunDirectory(runs_of(tmp_path / f"data-{i}") / job_of(data))
        assert copy.events()[0]["kind"] == "state"


def test_a_checkpoint_is_complete_or_missing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory(runs_of(data) / job_of(data))
    shutil.copytree(run.checkpoint(1), run.checkpoint(2))
    from orchestrator.run import copies as file_copy

    copy_file = file_copy.copy_file

    def removed_while_copying(file: Path, to: Path) -> tuple[int, str]:
        # The job removes step-1 while it is being copied.
        done = copy_file(file, to)
        if "step-1" in file.parts and file.name == "model.safetensors":
            shutil.rmtree(run.checkpoint(1))
        return done

    monkeypatch.setattr(file_copy, "copy_file", removed_while_copying)
    names = copy_run(run.path, tmp_path / "copy", "runs/job")
    assert not (tmp_path / "copy" / "checkpoints" / "step-1").exists()
    assert (tmp_path / "copy" / "checkpoints" / "step-2" / "training_state" / "job.json").is_file()
    assert not [name for name in names if "step-1" in name]
    assert {name.removeprefix("runs/job/") for name in names} == set(tree(tmp_path / "copy"))


def test_existing_files_are_left_unchanged(data: Path, saved: Path, tmp_path: Path) -> None:
    before = tree(tmp_path)
    for arguments, words in (
        (("backup", saved, "--data-dir", data), "not empty"),
        (("restore", saved, "--data-dir", data), "not empty"),
        (("backup", data / "runs" / "copy", "--data-dir", data), "in the data directory itself"),
        (("backup", tmp_path / "new", "--data-dir", tmp_path / "nothing"), "there is no database here"),
        (("restore", tmp_path / "nothing", "--data-dir", tmp_path / "new"), "is not a backup"),
        (("backup", tmp_path / "new", "--data-dir", data, "--database-url", "mysql://h/d"), "not supported"),
        (("restore", saved, "--data-dir", tmp_path / "new", "--database-url", "postgresql://h/d"), "is SQLite"),
    ):
        assert words in earshot(*arguments, code=2)
    assert tree(tmp_path) == before


def damage_size(saved: Path) -> None:
    with next(saved.rglob("model.safetensors")).open("ab") as file:
        file.write(b"x")


def damage_bytes(saved: Path) -> None:
    file = next(saved.rglob("model.safetensors"))
    file.write_bytes(b"x" + file.read_bytes()[1:])


def remove_file(saved: Path) -> None:
    next(saved.rglob("events.jsonl")).unlink()


def remove_database(saved: Path) -> None:
    (saved / "earshot.db").unlink()


def cut_manifest(saved: Path) -> None:
    (saved / "backup.json").write_text('{"format": 1')


def later_format(saved: Path) -> None:
    value = json.loads((saved / "backup.json").read_text())
    (saved / "backup.json").write_text(json.dumps(value | {"format": 99}))


def path_outside(saved: Path) -> None:
    value = json.loads((saved / "backup.json").read_text())
    value["files"]["runs/../../victim"] = [0, ""]
    (saved / "backup.json").write_text(json.dumps(value))


@pytest.mark.parametrize(
    "harm", [damage_size, damage_bytes, remove_file, remove_database, cut_manifest, later_format, path_outside]
)
def test_a_damaged_backup_is_refused(harm, saved: Path, tmp_path: Path) -> None:
    harm(saved)
    said = earshot("restore", saved, "--data-dir", tmp_path / "again", code=2)
    assert str(saved) in said
    assert not (tmp_path / "again").exists()
    assert not list(tmp_path.glob(".again*"))


def test_a_damaged_database_is_not_backed_up(data: Path, tmp_path: Path) -> None:
    database = data / "earshot.db"
    database.write_bytes(b"no database" * 1000)
    assert "earshot.db" in earshot("backup", tmp_path / "new", "--data-dir", data, code=2)
    assert not (tmp_path / "new").exists()


def test_too_little_space_is_reported_first(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 100, 0))
    assert "are needed" in earshot("backup", tmp_path / "new", "--data-dir", data, code=2)


def test_postgresql(postgres: Postgres, tmp_path: Path) -> None:
    data, url = tmp_path / "data", postgres.new_database()
    job = asyncio.run(fill(url, data))
    earshot("backup", tmp_path / "saved", "--data-dir", data, "--database-url", url)
    assert "name an empty one" in earshot("restore", tmp_path / "saved", "--data-dir", tmp_path / "new", code=2)
    again = tmp_path / "again"
    full = ("restore", tmp_path / "saved", "--data-dir", again, "--database-url", url)
    assert "not empty" in earshot(*full, code=2)
    assert not again.exists()
    empty = postgres.new_database()
    earshot("restore", tmp_path / "saved", "--data-dir", again, "--database-url", empty)
    asyncio.run(check(empty, again, job))


def test_postgresql_without_its_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    url = "postgresql://somebody:hunter2@127.0.0.1:1/db"
    said = earshot("backup", tmp_path / "new", "--data-dir", tmp_path / "data", "--database-url", url, code=2)
    assert "pg_dump is not installed here" in said and "hunter2" not in said
