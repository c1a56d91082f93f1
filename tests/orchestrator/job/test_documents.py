"""YAML and JSON documents: duplicate keys, and what is refused in documents that anybody may have written."""

import pytest

from orchestrator.job.documents import DocumentError, load_json, load_untrusted_json, load_untrusted_yaml, load_yaml


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", "duplicate key 'a' in line 3, first in line 1"),
        ("outer:\n  b: 2\n  b: 3\n", "duplicate key 'b' in line 3, first in line 2"),
        ('{"a": 1, "a": 2}', "duplicate key 'a' in line 1, first in line 1"),
        ("a: [1\n", "not valid YAML: while parsing a flow sequence in line 1, column 4"),
        ("? [1]\n: 2\n", "not valid YAML.*unhashable"),
    ],
)
def test_a_yaml_document_is_refused(text: str, words: str):
    with pytest.raises(DocumentError, match=words) as caught:
        load_yaml(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a" 1}', "not valid JSON: line 1, column 6: Expecting ':' delimiter"),
        ('{"a": 1, "a": 2}', "duplicate key 'a'"),
        ("[" * 100_000, "not valid JSON: nested too deep"),
    ],
)
def test_a_json_document_is_refused(text: str, words: str):
    with pytest.raises(DocumentError, match=words):
        load_json(text)


def test_a_trusted_document_may_have_aliases_and_keys_that_are_not_text():
    assert load_yaml("a: &x {b: 1}\nc: *x\n1: 2\n") == {"a": {"b": 1}, "c": {"b": 1}, 1: 2}


def test_mappings_are_merged_and_their_own_keys_win():
    text = "a: {a: &x {b: 1, c: 1}}\nd: {d: &y {<<: *x, c: 2}}\ne: {<<: *y, f: 3}\n"
    assert load_yaml(text)["d"]["d"] == {"b": 1, "c": 2}
    assert load_yaml(text)["e"] == {"b": 1, "c": 2, "f": 3}


def test_merged_mappings_that_are_very_many_are_refused():
    lines = ["a0: &a0 {b: 1}"] + [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 100)}]}}" for i in range(1, 9)]
    with pytest.raises(DocumentError, match="its aliases make it endless or too large"):
        load_yaml("\n".join(lines))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2\n", "duplicate key 'a' in line 2, first in line 1"),
        ("a: &x 1\nb: *x\n", "aliases are not accepted"),
        ("1: 2\n", "the key 1 is not text"),
        ("a: {b: {c: 1}}\n", "nested more than 3 deep"),
        ("a: 2020-01-01\n", "not YAML that JSON could express"),
        ("a: .inf\n", "is not a finite number: write one of at most 1e308"),
        ("a: \x00\n", "not YAML that JSON could express"),
        ("a: [1\n", "not YAML that JSON could express"),
    ],
)
def test_an_untrusted_yaml_document_is_refused(text: str, words: str):
    with pytest.raises(DocumentError, match=words) as caught:
        load_untrusted_yaml(text, max_depth=3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "duplicate key 'c'"),
        (b'{"' + b"x" * 500 + b'": 1, "' + b"x" * 500 + b'": 2}', r"duplicate key 'x{50,60}\.\.\.x{50,60}'$"),
        (b"[[[[1]]]]", "nested more than 3 deep"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": "\\ud800"}', "not JSON"),
        (b"{", "not JSON"),
    ],
)
def test_an_untrusted_json_document_is_refused(text: bytes, words: str):
    with pytest.raises(DocumentError, match=words):
        load_untrusted_json(text, max_depth=3)


def test_untrusted_documents_that_are_fine():
    assert load_untrusted_json(b'{"a": "[[[[[[", "b": [1, {"c": null}]}', max_depth=3) == {
        "a": "[[[[[[",
        "b": [1, {"c": None}],
    }
    assert load_untrusted_yaml("a: 1\nb: [x, {c: null}]\n", max_depth=5) == {"a": 1, "b": ["x", {"c": None}]}
