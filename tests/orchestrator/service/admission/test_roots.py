"""No path leads outside the roots."""

import os

import pytest

from orchestrator.job.roots import OutsideRootsError, Roots


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


def test_a_path_is_kept_as_the_user_named_it_if_it_lies_under_the_roots(home):
    (home / "data" / "link").symlink_to("clip.wav")
    (home / "data" / "folder").symlink_to("inner")
    (home / "outside").symlink_to(home / "data" / "clip.wav")
    (home / "root").symlink_to(home / "data")
    roots = Roots([home / "root"])
    assert roots.kept(f"{home}/data/link") == f"{home}/data/link"
    assert roots.kept(f"{home}/root/link") == f"{home}/root/link"
    # The parent of a linked folder is where it leads, for us as for the system.
    assert roots.kept(f"{home}/data/folder/../link") == f"{home}/data/link"
    # Whoever owns a link outside of the roots could turn it elsewhere after its job was admitted.
    assert roots.kept(f"{home}/outside") == f"{home}/data/clip.wav"


def test_no_path_that_leads_outside_is_kept(home):
    (home / "data" / "out").symlink_to(home / "data-of-others" / "secret")
    (home / "data" / "others").symlink_to(home / "data-of-others")
    (home / "data" / "others" / "deep").mkdir()
    (home / "data" / "deep").symlink_to(home / "data-of-others" / "deep")
    roots = Roots([home / "data"])
    for path in ("data/out", "data/others/secret", "data/deep/../secret", "data/inner/../../data-of-others/secret"):
        with pytest.raises(OutsideRootsError):
            roots.kept(f"{home}/{path}")
