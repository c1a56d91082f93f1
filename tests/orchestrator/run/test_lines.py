"""Walking over a file that grows meets every whole line once, forwards and backwards."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.run import lines
from orchestrator.run.lines import PlaceError, line_at, lines_after, lines_before

texts = st.lists(st.binary(max_size=40).map(lambda text: text.replace(b"\n", b"x")), max_size=30)


@settings(max_examples=150, deadline=None)
@given(texts, st.binary(max_size=9).map(lambda text: text.replace(b"\n", b"x")), st.integers(1, 7), st.integers(1, 50))
def test_pages_put_together_are_the_file(tmp_path_factory, written, torn, limit, piece):
    path = tmp_path_factory.mktemp("lines") / "file"
    path.write_bytes(b"".join(text + b"\n" for text in written) + torn)
    forwards, place = [], 0
    while page := lines_after(path, place, limit):
        assert len(page) <= limit
        forwards += page
        place = page[-1].end
    before, lines._PIECE = lines._PIECE, piece
    try:
        backwards, end = [], None
        while page := lines_before(path, end, limit):
            backwards += page
            end = page[-1].start
            if end == 0:
                break
    finally:
        lines._PIECE = before
    assert [line.text for line in forwards] == written
    assert backwards[::-1] == forwards
    assert [line_at(path, line.start) for line in forwards] == forwards


def test_a_place_within_a_line_or_behind_the_file_is_refused(tmp_path):
    path = tmp_path / "file"
    assert lines_after(path, 0, 5) == lines_before(path, None, 5) == []
    path.write_bytes(b"one\ntwo\n")
    assert line_at(path, 8) is None
    for place in (1, 3, 9, -1, 10**30):
        with pytest.raises(PlaceError):
            lines_after(path, place, 5)


def test_a_page_ends_behind_its_bytes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345\n" * 10)
    assert len(lines_after(path, 0, 10, most_bytes=13)) == 3
