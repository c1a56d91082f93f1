"""The messages that docs/operate/troubleshooting.md quotes are those of the code."""

import ast
import re
from collections.abc import Iterator

from docs.pages import ROOT

PAGE = ROOT / "docs" / "operate" / "troubleshooting.md"
PACKAGES = ("audio_qa", "learner", "orchestrator", "protocol", "reward", "rollout_workers")
NOT_OURS = "Input should be greater than or equal to 2"
"""A message of pydantic."""


def _texts() -> Iterator[str]:
    """Yield every string of the code, f-strings with a zero byte where a value goes."""
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value
                elif isinstance(node, ast.JoinedStr):
                    yield "".join(str(v.value) if isinstance(v, ast.Constant) else "\0" for v in node.values)


def _parts(message: str) -> list[str]:
    """Return the parts of a quoted message between the places of its values."""
    return [part for part in (piece.strip(" ():'?,") for piece in message.split("…")) if len(part) > 5]


def test_the_messages_are_those_of_the_code():
    table = re.findall(r"^\| (`.+?`) \| ", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    quoted = [message for cell in table for message in re.findall(r"`([^`]+)`", cell) if NOT_OURS not in message]
    assert len(quoted) > 15
    texts = "\n".join(_texts())
    assert not [message for message in quoted if not all(part in texts for part in _parts(message))]
    assert "no such message" not in texts
