"""No path leads outside the roots."""

import os

import pytest

from orchestrator.service.admission.roots import OutsideRootsError, Roots


@pytest.fixture
def home(tmp_path):
    (tmp_path / "data" / "inner").mkdir(parents=True)
    (tmp_path / "data" / "clip.wav").write_bytes(b"x")
    (tmp_path / "data-of-others").mkdir()
    (tmp_path / "data-of-others" / "secret").write_bytes(b"x")
    return tmp_path


def test_paths_inside_are_found(home):
    (home / "link").symlink_to(home / "data")
    roots = Roots([home / "link"])
    assert roots.file(f"{home}/data/inner/../clip.wav") == home / "data" / "clip.wav"
    assert roots.folder(f"{home}/link/inner") == home / "data" / "inner"


@pytest.mark.parametrize(
    "path",
    [
        "{home}/data/../data-of-others/secret",
        "{home}/data-of-others/secret",
        "{home}/data/out",
        "{home}/data/inner",
        "{home}/data/loop",
        "{home}/data/missing",
        "{home}/data/pipe",
        "data/clip.wav",
        "/etc/passwd",
        "",
        "\0",
        "{home}/data/" + "a" * 5000,
        "~/.ssh/id_rsa",
    ],
)
def test_paths_outside_are_refused(home, path):
    (home / "data" / "out").symlink_to(home / "data-of-others" / "secret")
    (home / "data" / "loop").symlink_to(home / "data" / "loop")
    os.mkfifo(home / "data" / "pipe")
    with pytest.raises(OutsideRootsError):
        Roots([home / "data"]).file(path.format(home=home))
