"""Every command in the pages is one that exists, with options that it has."""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer
from docs.pages import PAGES, ROOT, blocks, name_of
from typer.core import TyperGroup
from typer.exceptions import TyperException

from orchestrator.cli.lazy import LazyCommand
from orchestrator.cli.main import app

TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
SYNTAX = ROOT / "docs" / "reference" / "commands.md"
"""The generated page, whose blocks are syntax and not commands to copy."""
READY = ".venv/.ready"
"""The file that the Makefile makes once `.venv` is set up."""


def commands(page: Path) -> list[list[str]]:
    """Return the words of each line of a page's shell blocks, up to a redirection or pipe."""
    found = []
    for block in blocks(page, "(?:sh|bash)"):
        text = re.sub(r"<<'(\w+)'\n.*?\n\1$", "", block, flags=re.DOTALL | re.MULTILINE).replace("\\\n", " ")
        for line in text.splitlines():
            words = shlex.split(line, comments=True)
            while words and re.match(r"[A-Z_]+=", words[0]):
                words = words[1:]
            end = next((i for i, word in enumerate(words) if word in (">", "|", "&", "&&", ";")), len(words))
            if words[:end]:
                found.append(words[:end])
    return found


def check(words: list[str]) -> None:
    """Parse one command of `earshot`, `make` or `python -m benchmarks`; raise if it is not valid."""
    match words:
        case ["earshot" | ".venv/bin/earshot", *rest]:
            parse(rest)
        case ["make", *rest]:
            unknown = [word for word in rest if word not in TARGETS and word != READY and "=" not in word]
            assert not unknown, f"make has no target {unknown}"
        case [python, "-m", module, *_] if python.endswith("python") and module.startswith("benchmarks"):
            assert find_spec(module), f"there is no module {module}"


def parse(words: list[str]) -> None:
    """Parse the words of `earshot` as the program does, with 1 for a placeholder N."""
    command = typer.main.get_command(app)
    while isinstance(command, TyperGroup) and words and not words[0].startswith("-"):
        found = command.get_command(typer.Context(command), words[0])
        assert found is not None, f"there is no command {words[0]!r}"
        command, words = found.load() if isinstance(found, LazyCommand) else found, words[1:]
    try:
        command.make_context("earshot", ["1" if word == "N" else word for word in words])
    except typer.Exit as end:  # --help
        assert end.exit_code == 0


@pytest.mark.parametrize("page", [page for page in PAGES if page != SYNTAX], ids=name_of)
def test_commands_parse(page: Path):
    problems = []
    for words in commands(page):
        try:
            check(words)
        except (AssertionError, TyperException) as error:
            problems.append(f"{' '.join(words)}: {error}")
    assert not problems, f"{name_of(page)}: {problems}"


@pytest.mark.parametrize(
    "bad",
    [
        "earshot train job.yaml",
        "earshot run job.yaml --steps 3",
        "earshot token make",
        "make walk",
        "python -m benchmarks.nothing",
    ],
)
def test_a_wrong_command_is_found(bad: str):
    with pytest.raises((AssertionError, TyperException)):
        check(bad.split())


def test_the_pages_have_commands():
    assert sum(words[0] in ("earshot", ".venv/bin/earshot") for page in PAGES for words in commands(page)) > 30
