"""Default folders, and the variables that move them."""

from pathlib import Path

import pytest

from orchestrator.places import cache_directory, data_directory, database_of, examples_folder, runs_of


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path) -> Path:
    for name in ("EARSHOT_DATA", "EARSHOT_CACHE", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_the_defaults_on_linux(home):
    assert data_directory() == home / ".local" / "share" / "earshot"
    assert cache_directory() == home / ".cache" / "earshot"


@pytest.mark.parametrize("blank", ["", None])
def test_xdg_variables_move_them(home, monkeypatch, blank):
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    if blank is not None:
        monkeypatch.setenv("EARSHOT_DATA", blank)
    assert (data_directory(), cache_directory()) == (home / "data" / "earshot", home / "cache" / "earshot")


def test_our_variables_are_the_folders_themselves(home, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", "/elsewhere")
    monkeypatch.setenv("EARSHOT_DATA", str(home / "d"))
    monkeypatch.setenv("EARSHOT_CACHE", str(home / "c"))
    assert (data_directory(), cache_directory()) == (home / "d", home / "c")


def test_a_data_directory_has_a_database_and_runs(home):
    assert database_of(home) == f"sqlite:///{home}/earshot.db"
    assert runs_of(home) == home / "runs"


def test_the_examples_are_found():
    assert (examples_folder() / "demo.yaml").is_file()
