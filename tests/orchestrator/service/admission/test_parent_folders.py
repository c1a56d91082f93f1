"""`..` in a path says nothing about folders outside the roots: the system follows it only where they exist."""

from pathlib import Path

import pytest

from orchestrator.job.roots import OutsideRootsError, Roots


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "root" / "inner").mkdir(parents=True)
    (tmp_path / "root" / "clip.wav").write_bytes(b"x")
    (tmp_path / "others" / "secret").mkdir(parents=True)
    (tmp_path / "root" / "out").symlink_to(tmp_path / "others" / "secret")
    return tmp_path


@pytest.mark.parametrize(
    "through", ["others/secret/../..", "others/absent/../..", "root/out/../..", "root/inner/../../others/.."]
)
@pytest.mark.parametrize("remember", [True, False])
def test_a_path_through_others_folders_is_refused(home: Path, through: str, remember: bool) -> None:
    with pytest.raises(OutsideRootsError, match="is not under the folders"):
        Roots([home / "root"], remember=remember).place(f"{home}/{through}/root/clip.wav")


@pytest.mark.parametrize(
    "path", ["root/inner/../clip.wav", "root/../root/clip.wav", "root/inner//..//inner/../clip.wav"]
)
def test_a_path_through_own_folders_is_found(home: Path, path: str) -> None:
    assert Roots([home / "root"], remember=True).file(f"{home}/{path}") == home / "root" / "clip.wav"


def test_a_name_that_begins_with_dots_is_a_name(home: Path) -> None:
    (home / "root" / "..clip.wav").write_bytes(b"x")
    assert Roots([home / "root"]).file(f"{home}/root/..clip.wav").name == "..clip.wav"
