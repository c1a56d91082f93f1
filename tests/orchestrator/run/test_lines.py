"""Every complete line of a growing file is read exactly once: by a reader that follows it, and in pages both ways."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.run import lines
from orchestrator.run.lines import LineReader, PlaceError, line_at, lines_after, lines_before

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


def test_a_place_inside_a_line_or_after_the_end_is_refused(tmp_path):
    path = tmp_path / "file"
    assert lines_after(path, 0, 5) == lines_before(path, None, 5) == []
    path.write_bytes(b"one\ntwo\n")
    assert line_at(path, 8) is None
    for place in (1, 3, 9, -1, 10**30):
        with pytest.raises(PlaceError):
            lines_after(path, place, 5)


def test_a_page_ends_after_its_bytes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345\n" * 10)
    assert len(lines_after(path, 0, 10, most_bytes=13)) == 3


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=12), st.integers(1, 50))
def test_a_reader_meets_every_line_once_however_it_is_written(tmp_path_factory, pieces, block):
    path = tmp_path_factory.mktemp("lines") / "file"
    reader, found = LineReader(path), []
    before, lines._BLOCK = lines._BLOCK, block
    try:
        found += reader.lines()
        for piece in pieces:
            with path.open("ab") as file:
                file.write(piece)
            found += reader.lines()
            found += reader.lines()
    finally:
        lines._BLOCK = before
    assert found == b"".join(pieces).split(b"\n")[:-1]


def test_the_rest_of_a_line_that_was_being_written_is_not_a_line(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b'{"a": 1}\n{"b')
    reader = LineReader(path)
    assert list(reader.lines()) == [b'{"a": 1}']
    with path.open("ab") as file:
        file.write(b'": 2}\n{"c": 3}\n')
    assert list(reader.lines()) == [b'{"b": 2}', b'{"c": 3}']


@pytest.mark.parametrize("rest", [b"", b"new\n", b"new\nother\nand\nmore\n"])
def test_a_truncated_file_is_read_from_its_beginning(tmp_path, rest):
    path, restarts = tmp_path / "file", []
    path.write_bytes(b"one\ntwo\nthree\n")
    reader = LineReader(path, on_restart=lambda: restarts.append(True))
    assert len(list(reader.lines())) == 3
    path.write_bytes(b"one\n" + rest)
    assert list(reader.lines()) == [b"one", *rest.splitlines()]
    assert restarts == [True]
    path.unlink()
    assert list(reader.lines()) == []
    assert restarts == [True, True]


def test_a_reader_from_the_end_gets_only_what_is_appended(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"one\ntwo\nto")
    reader = LineReader(path, from_end=True)
    assert list(reader.lines()) == []
    with path.open("ab") as file:
        file.write(b"rn\nfour\n")
    assert list(reader.lines()) == [b"torn", b"four"]
    path.write_bytes(b"one\n")
    assert list(reader.lines()) == []
    with path.open("ab") as file:
        file.write(b"again\n")
    assert list(reader.lines()) == [b"again"]


def test_a_block_that_its_reader_fails_on_is_read_again(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"one\ntwo\n")
    reader = LineReader(path)
    with pytest.raises(ValueError, match="bad"):
        for _ in reader.lines():
            raise ValueError("bad")
    assert list(reader.lines()) == [b"one", b"two"]
    assert list(reader.lines()) == []
