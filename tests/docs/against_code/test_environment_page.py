"""docs/reference/environment.md has every environment variable that the code reads or sets."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from docs.pages import ROOT

PAGE = (ROOT / "docs" / "reference" / "environment.md").read_text(encoding="utf-8")
PACKAGES = ("audio_qa", "learner", "orchestrator", "protocol", "reward", "rollout_workers")
NAME = re.compile(r"[A-Z][A-Z0-9_]+")
OURS = re.compile(r"\bEARSHOT_[A-Z_]+\b")


def _files(*folders: str) -> Iterator[Path]:
    suffixes = {".py", ".sh", ".yaml", ".Dockerfile", ""}
    for folder in folders:
        for file in (ROOT / folder).rglob("*"):
            if file.is_file() and file.suffix in suffixes and "__pycache__" not in file.parts:
                yield file


def _used(tree: ast.Module) -> Iterator[str]:
    """Yield the names in `os.environ`'s calls, items and updates, and those of options' `envvar`."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Attribute(attr="environ")), args=[first, *_]):
                found = [first]
            case ast.Subscript(value=ast.Attribute(attr="environ"), slice=first):
                found = [first]
            case ast.AugAssign(target=ast.Attribute(attr="environ"), value=ast.Dict(keys=keys)):
                found = [key for key in keys if key]
            case ast.keyword(arg="envvar", value=value):
                found = [value]
            case ast.Dict(keys=keys):
                # Dictionaries that are an environment have names of variables as keys, and nothing else.
                found = [key for key in keys if key and isinstance(key, ast.Constant)]
            case _:
                found = []
        texts = [each.value for each in found if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        yield from (text for text in texts if NAME.fullmatch(text) and "_" in text)


def test_every_variable_of_ours_is_on_the_page_and_no_other():
    code = [*_files(*PACKAGES, "deploy", "tests", "benchmarks"), ROOT / "Makefile"]
    used = {name for file in code if file != Path(__file__) for name in OURS.findall(file.read_text(encoding="utf-8"))}
    assert len(used) > 10
    assert used == set(OURS.findall(PAGE))


def test_every_other_variable_of_the_code_is_on_the_page():
    used = {
        (name, str(file.relative_to(ROOT)))
        for file in _files(*PACKAGES)
        if file.suffix == ".py"
        for name in _used(ast.parse(file.read_text(encoding="utf-8")))
    }
    assert len(used) > 20
    assert not {(name, file) for name, file in used if f"`{name}`" not in PAGE}
