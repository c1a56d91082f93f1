"""Helpers for tests of deploy/: read its files, and check their commands and paths against the code."""

import os
import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from orchestrator.cli.lazy import LazyCommand
from orchestrator.cli.main import app
from orchestrator.service.api.app import create_app
from orchestrator.service.store.database import sqlite_url
from orchestrator.service.store.store import Store

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
VERSION = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]  # type: ignore[index]

# An image with a registry or not, and a tag that is a version: `latest`, `main` and the like move.
_IMAGE = re.compile(r"[a-z0-9./_-]+:v?\d+(\.\d+)+[A-Za-z0-9._-]*(@sha256:[0-9a-f]{64})?")
_SECRET = re.compile(
    r"earshot_[A-Za-z0-9_-]{40,}|-----BEGIN|[0-9a-f]{64}|://[^:/@\s$]+:[^@/\s$%]+@|(?i:password|token|secret)\s*[:=]\s*['\"]?[a-z0-9]{12,}"
)


def shared_crds() -> Path:
    """Return the folder of KubeRay's CRDs next to the checkout; skip the test if it is missing."""
    folder = Path(os.environ.get("EARSHOT_SHARED") or ROOT.parent / "shared") / "k8s"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: KubeRay's CRDs are needed (EARSHOT_SHARED names the folder above it)")
    return folder


def read_yaml(path: Path) -> list[dict[str, Any]]:
    """Return the documents of a file."""
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return keyword and arguments of each instruction of a Dockerfile, without comments, continued lines joined."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [
        (word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines()) if word
    ]


def last_stage(path: Path) -> list[tuple[str, str]]:
    """Return the instructions of the final image."""
    found = instructions(path)
    return found[max(i for i, (word, _) in enumerate(found) if word == "FROM") :]


def image_environment(path: Path) -> dict[str, str]:
    """Return the variables that a Dockerfile's image sets."""
    words = " ".join(rest for word, rest in last_stage(path) if word == "ENV").split()
    return dict(word.partition("=")[::2] for word in words)


def check_image(image: str) -> None:
    """Check that an image is pinned by a version."""
    assert _IMAGE.fullmatch(image), f"{image} is not pinned by a version"
    if image.startswith("earshot/"):
        assert image.rpartition(":")[2] == VERSION, f"{image} is not of this version"


def check_no_secret(path: Path) -> None:
    """Check that nothing in a file looks like the value of a secret."""
    for line in path.read_text(encoding="utf-8").splitlines():
        found = _SECRET.search(line)
        assert not found, f"{path.relative_to(ROOT)} has what looks like a secret: {found and found[0][:12]}…"


def check_earshot(arguments: Sequence[str]) -> dict[str, Any]:
    """Check that `earshot` accepts these arguments, without running it; return the parsed options."""
    command: Any = typer.main.get_command(app)
    rest = list(arguments)
    while hasattr(command, "commands"):
        name = rest.pop(0)
        assert name in command.commands, f"`earshot {name}` is not a command"
        command = command.commands[name]
        if isinstance(command, LazyCommand):
            command = command.load()
    parameters: dict[str, Any] = command.make_context(command.name, rest).params
    return parameters


@cache
def service_routes() -> set[str]:
    """Return the paths of the API's GET routes."""
    # Nothing is opened.
    made = create_app(Store(sqlite_url(Path("unused.db")), Path("runs")))
    return {path for path, methods in made.openapi()["paths"].items() if "get" in methods}


def check_ray_health_path(path: str) -> None:
    """Check that Ray's agent answers a path, by reading its source: importing Ray takes a second."""
    spec = find_spec("ray")
    assert spec and spec.origin
    agent = Path(spec.origin).parent / "dashboard"
    places = ("modules/reporter/healthz_agent.py", "modules/reporter/reporter_head.py")
    assert any(f'"{path}"' in (agent / place).read_text(encoding="utf-8") for place in places), path


def walk(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every mapping in a document."""
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from walk(item)


def check_ray_start(command: Sequence[str]) -> dict[str, str]:
    """Check in its source that `ray start` has these options; return them with their values."""
    assert list(command[:2]) == ["ray", "start"]
    spec = find_spec("ray")
    assert spec and spec.origin
    known = set(re.findall(r'"(--[a-z][a-z-]+)"', (Path(spec.origin).parent / "scripts" / "scripts.py").read_text()))
    options = dict(word.partition("=")[::2] for word in command[2:])
    assert options.keys() <= known, options.keys() - known
    return options
