"""Facts about files are remembered as long as the files stay as they were, whatever else happens to the memory."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from audio_qa.audio import AudioError
from audio_qa.files import memory as module
from audio_qa.files.memory import FileMemory


@pytest.fixture(autouse=True)
def _remembers_young_files(monkeypatch):
    monkeypatch.setattr(module, "_YOUNG_NS", -(10**18))


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    for i in range(100):
        (tmp_path / f"{i}").write_text(f"content {i}")
    return [str(tmp_path / f"{i}") for i in range(100)]


class Reader:
    """Read files, and note which."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def __call__(self, path: str) -> str | AudioError:
        self.read.append(path)
        try:
            return Path(path).read_text()
        except OSError as error:
            return AudioError(str(error))


def found_and_read(
    file: Path | None, paths: list[str], version: str = "1", kind: str = "text"
) -> tuple[object, list[str]]:
    reader = Reader()
    return FileMemory(file, version).find(kind, paths, reader), sorted(reader.read)


def test_each_file_is_read_once(tmp_path, paths):
    file = tmp_path / "cache" / "memory.sqlite"
    first, read = found_and_read(file, [*paths, *paths])
    assert read == sorted(paths)
    second, read = found_and_read(file, paths)
    assert (second, read) == (first, [])
    assert second == {path: f"content {i}" for i, path in enumerate(paths)}
    assert found_and_read(file, paths[:3], version="2")[1] == sorted(paths[:3])
    assert found_and_read(file, paths[:3], kind="other")[1] == sorted(paths[:3])
    assert found_and_read(None, paths[:3])[1] == sorted(paths[:3])


def change_size(path: str) -> None:
    Path(path).write_text("another content")


def change_content(path: str) -> None:
    before = Path(path).stat()
    Path(path).write_text("CONTENT 0")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def change_time(path: str) -> None:
    os.utime(path, ns=(0, 1))


def replace_by_another(path: str) -> None:
    shutil.copy2(path, path + ".new")
    Path(path + ".new").replace(path)


@pytest.mark.parametrize("change", [change_size, change_content, change_time, replace_by_another])
def test_a_changed_file_is_read_again(tmp_path, paths, change):
    file = tmp_path / "memory.sqlite"
    found_and_read(file, paths)
    change(paths[0])
    found, read = found_and_read(file, paths)
    assert read == [paths[0]]
    assert found[paths[0]] == Path(paths[0]).read_text()
    assert found_and_read(file, paths)[1] == []


def test_a_relative_path_is_the_same_file(tmp_path, paths, monkeypatch):
    found_and_read(tmp_path / "memory.sqlite", paths)
    monkeypatch.chdir(tmp_path)
    assert found_and_read(tmp_path / "memory.sqlite", ["7"]) == ({"7": "content 7"}, [])


def test_errors_and_young_files_are_not_remembered(tmp_path, paths, monkeypatch):
    Path(paths[0]).unlink()
    found, _ = found_and_read(tmp_path / "memory.sqlite", paths)
    assert isinstance(found[paths[0]], AudioError)
    assert found_and_read(tmp_path / "memory.sqlite", paths)[1] == [paths[0]]
    monkeypatch.setattr(module, "_YOUNG_NS", 3600 * 10**9)
    found_and_read(tmp_path / "young.sqlite", paths[1:])
    assert found_and_read(tmp_path / "young.sqlite", paths[1:])[1] == sorted(paths[1:])


def test_what_was_found_is_kept_when_a_later_file_raises(tmp_path, paths, monkeypatch):
    monkeypatch.setattr(module, "_KEPT_AT_ONCE", 10)

    def look(path: str) -> str:
        if path == paths[70]:
            raise KeyboardInterrupt
        return "fact"

    with pytest.raises(KeyboardInterrupt):
        FileMemory(tmp_path / "memory.sqlite", "1").find("text", paths, look)
    assert 30 <= 100 - len(found_and_read(tmp_path / "memory.sqlite", paths)[1]) <= 70


@pytest.mark.parametrize("content", [b"not a database" * 1000, b"SQLite format 3\0" + bytes(5000), b""])
def test_a_broken_memory_is_replaced(tmp_path, paths, content):
    file = tmp_path / "memory.sqlite"
    file.write_bytes(content)
    expected = {path: f"content {i}" for i, path in enumerate(paths)}
    for _ in range(3):
        assert found_and_read(file, paths)[0] == expected
    assert found_and_read(file, paths)[1] == []


def test_a_cut_memory_never_gives_a_wrong_fact(tmp_path, paths):
    file = tmp_path / "memory.sqlite"
    found_and_read(file, paths)
    whole = file.read_bytes()
    for share in (0.2, 0.5, 0.9):
        file.write_bytes(whole[: int(share * len(whole))])
        assert found_and_read(file, paths)[0] == {path: f"content {i}" for i, path in enumerate(paths)}


def test_a_memory_that_cannot_be_written_or_is_locked_costs_time_only(tmp_path, paths, monkeypatch):
    monkeypatch.setattr(module, "_LOCKED_SECONDS", 0.05)
    nowhere = tmp_path / "file"
    nowhere.write_text("")
    assert len(found_and_read(nowhere / "memory.sqlite", paths)[1]) == 100
    file = tmp_path / "memory.sqlite"
    found_and_read(file, paths[:50])
    holder = sqlite3.connect(file)
    holder.execute("BEGIN EXCLUSIVE")
    assert len(found_and_read(file, paths)[1]) == 100
    holder.close()
    assert found_and_read(file, paths)[1] == sorted(paths[50:])


def test_a_memory_without_the_right_to_write_is_read(tmp_path):
    folder = Path(tempfile.mkdtemp())
    paths = [str(folder / name) for name in "ab"]
    for path in paths:
        Path(path).write_text("content")
    found_and_read(folder / "memory.sqlite", paths)
    (folder / "memory.sqlite").chmod(0o444)
    folder.chmod(0o555)
    child = os.fork()
    if not child:
        # Root may write everywhere.
        if not os.getuid():
            os.seteuid(65534)
        found = FileMemory(folder / "memory.sqlite", "1").find("text", paths, lambda path: "read again")
        os._exit(0 if found == dict.fromkeys(paths, "content") else 1)
    assert os.waitpid(child, 0)[1] == 0
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_the_oldest_facts_are_forgotten(tmp_path, paths, monkeypatch):
    monkeypatch.setattr(module, "_MOST_FACTS", 60)
    file = tmp_path / "memory.sqlite"
    found_and_read(file, paths[:50])
    found_and_read(file, paths[50:])
    read = found_and_read(file, paths)[1]
    assert set(read) <= set(paths[:50])
    assert len(read) == 46


def test_several_processes_write_at_once(tmp_path, paths):
    file = tmp_path / "memory.sqlite"
    code = (
        "import sys; from pathlib import Path; from audio_qa.files import memory; memory._YOUNG_NS = -10**18\n"
        "memory._KEPT_AT_ONCE = 1\n"
        "memory.FileMemory(Path(sys.argv[1]), '1').find('text', sys.argv[2:], lambda path: Path(path).read_text())"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(file), *paths[i::3]]) for i in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert found_and_read(file, paths) == ({path: f"content {i}" for i, path in enumerate(paths)}, [])
