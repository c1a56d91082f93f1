"""The language rules that a pattern can check: plain technical English in code, messages and pages.

The words of the field are in the glossary of docs/architecture.md.
"""

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = {".py", ".md", ".yaml", ".yml", ".sh", ".toml", ".html", ".j2"}
NOT_OURS = (
    "tests/compatibility/version_0_1/",  # what an earlier version wrote
    "docs/images/",
)

# Each rule: a pattern, and what to write.
_PROXY = r"(?:(?:a|an|the|its|this|that|nginx|which) )?(?:reverse |trusted )?(?:prox(?:y|ies)|load balancer)"
_ALLOWED_NO = r"(?:longer|more than|later than|earlier than|less|fewer|other)\b"
PHRASES = {
    rf"\bbehind\b(?! {_PROXY})": "after",
    r"\bstands? twice\b": "duplicate key",
    rf"\b(?<!there )(?:is|are|was|were) no (?!{_ALLOWED_NO})[a-z]": "not a …",
    r"\bone after the other or side by side\b": "sequentially or concurrently",
    r"\bin the place of\b": "instead of",
    r"\b(?:go|goes|going|went|gone) on (?:with|from)\b": "resume, continue",
    r"\bnobody is anybody\b": "requests without a token have no identity",
    r"\bwith commas between\b": "comma-separated",
}
LAG = re.compile(
    r"\b(?:falls?|fell|fallen|falling|lags?|left|leaves?|runs?|far|further|steps|versions|is|are) behind\b",
    re.IGNORECASE,
)
OPENING = re.compile(r"(?:What|Of|Likewise|Who|Whoever|Whose|How|Going|Where|Whether)\b")


def _files(*suffixes: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [
        ROOT / name
        for name in listed.stdout.splitlines()
        if Path(name).suffix in suffixes and not name.startswith(NOT_OURS) and (ROOT / name).is_file()
    ]


def _prose(path: Path) -> Iterator[tuple[int, str]]:
    """Line number and text of what is written for people: of a module its comments and strings, else every line."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from enumerate(text.splitlines(), start=1)
        return
    kinds = {tokenize.COMMENT, tokenize.STRING} | {getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in kinds:
            # A sentence is found across the line ends of a docstring, too.
            yield token.start[0], " ".join(token.string.split())


def _broken(lines: Iterator[tuple[int, str]], patterns: dict[str, str]) -> Iterator[str]:
    for number, line in lines:
        for pattern, instead in patterns.items():
            for match in re.finditer(pattern, line, re.IGNORECASE):
                start = max(0, match.start() - 30)
                if match[0] == "behind" and LAG.search(line[start : match.end()]):
                    continue
                yield f"{number}: …{line[start : match.end() + 20]}… (write: {instead})"


def test_phrases():
    """No file says something that the field says in other words."""
    me = Path(__file__)
    found = [
        f"{path.relative_to(ROOT)}:{problem}"
        for path in _files(*TEXT)
        if path != me
        for problem in _broken(_prose(path), PHRASES)
    ]
    assert not found, f"{len(found)} places:\n" + "\n".join(found)


def test_docstrings_begin_with_a_verb_or_a_noun():
    """No docstring opens with a question word or a fragment such as "Of the run"."""
    found = []
    for path in _files(".py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        texts = [
            (node.lineno, node.value.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        ]
        found += [
            f"{path.relative_to(ROOT)}:{line}: {text[:60]!r}" for line, text in texts if OPENING.match(text.strip())
        ]
    assert not found, f"{len(found)} places:\n" + "\n".join(found)


@pytest.mark.parametrize(
    "bad",
    [
        "waits behind the step that is running",
        "'steps' stands twice",
        "this is no token",
        "a model in the place of the recipe's",
        "goes on with the run",
    ],
)
def test_the_rules_can_fail(bad: str):
    assert list(_broken(iter([(1, bad)]), PHRASES))


@pytest.mark.parametrize(
    "good",
    [
        "a service behind a proxy",
        "a worker that falls behind",
        "there is no such job",
        "a job that is no longer queued",
    ],
)
def test_the_rules_allow(good: str):
    assert not list(_broken(iter([(1, good)]), PHRASES))
