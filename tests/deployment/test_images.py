"""The Dockerfiles are pinned, do not run as root, have health checks, and copy files that exist. None is built here."""

import fnmatch
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.cluster.manifests import (
    DEPLOY,
    ROOT,
    check_earshot,
    check_no_secret,
    check_ray_health_path,
    instructions,
    last_stage,
    service_routes,
)

FILES = sorted((DEPLOY / "docker").glob("*.Dockerfile"))


def of(path: Path, keyword: str) -> list[str]:
    return [rest for word, rest in instructions(path) if word == keyword]


@pytest.fixture(params=FILES, ids=lambda path: path.name)
def dockerfile(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_there_are_three() -> None:
    assert [path.name for path in FILES] == ["service.Dockerfile", "worker-cpu.Dockerfile", "worker-gpu.Dockerfile"]


def test_the_linter_finds_nothing(dockerfile: Path, tmp_path: Path) -> None:
    command = [
        Path(sys.executable).with_name("hadolint"),
        "--config",
        DEPLOY / "docker" / "hadolint.yaml",
        "--no-color",
    ]
    done = subprocess.run([*command, dockerfile], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = tmp_path / "Dockerfile"
    wrong.write_text(dockerfile.read_text().replace("WORKDIR /src", "WORKDIR src"))
    done = subprocess.run([*command, wrong], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode and "DL3000" in done.stdout


def test_bases_are_pinned_and_may_be_to_their_bytes(dockerfile: Path) -> None:
    arguments = dict(rest.partition("=")[::2] for rest in of(dockerfile, "ARG"))
    bases = [rest.split()[0] for rest in of(dockerfile, "FROM")]
    assert len(bases) == 2, "two stages: the build stage is dropped"
    for base in bases:
        assert base == "python:${PYTHON_TAG}${PYTHON_DIGEST}"
    assert re.fullmatch(r"3\.11\.\d+-slim-\w+", arguments["PYTHON_TAG"])
    assert arguments["PYTHON_DIGEST"] == ""


def test_packages_are_those_of_the_lock(dockerfile: Path) -> None:
    lock = "requirements/gpu.lock" if "gpu" in dockerfile.name else "requirements/cpu.lock"
    for rest in of(dockerfile, "RUN"):
        for command in rest.split("&&"):
            if "pip install" in command:
                assert "--no-deps" in command or f"--constraint {lock}" in command, command
                assert "--no-cache" in command or "PIP_NO_CACHE_DIR=1" in dockerfile.read_text()
    for name in ("uv", "torch"):
        assert re.search(rf"^{name}==\d", (ROOT / lock).read_text(), re.MULTILINE)


def test_extras_are_those_of_the_distribution(dockerfile: Path) -> None:
    declared = (ROOT / "pyproject.toml").read_text()
    extras = set(re.findall(r"--extra (\w+)", " ".join(of(dockerfile, "RUN"))))
    assert all(f"\n{extra} = [" in declared for extra in extras)
    assert "dev" not in extras
    assert ("cpu" in extras, "gpu" in extras) == ("cpu" in dockerfile.name, "gpu" in dockerfile.name)


def test_it_does_not_run_as_root(dockerfile: Path) -> None:
    assert [rest for word, rest in last_stage(dockerfile) if word == "USER"] == ["10001:10001"]
    users = [i for i, (word, _) in enumerate(last_stage(dockerfile)) if word == "USER"]
    assert all(word != "RUN" for word, _ in last_stage(dockerfile)[users[-1] :])


def test_what_it_copies_is_there_and_sent_to_the_builder(dockerfile: Path) -> None:
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert ignored[0] == "*", "what is sent is named, so that nothing else can get in"
    sent = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    for rest in of(dockerfile, "COPY"):
        words = [word for word in rest.split() if not word.startswith("--chmod")]
        if words[0].startswith("--from="):
            assert words[0] == "--from=build"
            continue
        for source in words[:-1]:
            assert (ROOT / source).exists(), source
            assert any(source == name or source.startswith(f"{name}/") for name in sent), f"{source} is ignored"
    for name in sent:
        assert (ROOT / name).exists(), name


def test_every_package_is_copied(dockerfile: Path) -> None:
    wheel = re.search(r"targets.wheel\]\npackages = (\[.+\])$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert wheel
    copied = {rest.split()[0] for rest in of(dockerfile, "COPY")}
    assert {*json.loads(wheel[1]), "examples"} <= copied


def test_health_is_asked_where_something_answers(dockerfile: Path) -> None:
    (check,) = (rest for word, rest in last_stage(dockerfile) if word == "HEALTHCHECK")
    found = re.search(r"http://[^'\"]+", check.partition(" CMD ")[2])
    assert found
    url = urlsplit(found[0])
    assert url.hostname == "127.0.0.1"
    if "service" in dockerfile.name:
        assert url.path in service_routes()
        command = json.loads(of(dockerfile, "CMD")[-1])
        assert check_earshot(command)["port"] == url.port
        assert str(url.port) in of(dockerfile, "EXPOSE")
    else:
        assert url.port == 52365
        check_ray_health_path(url.path)


def test_no_secret(dockerfile: Path) -> None:
    check_no_secret(dockerfile)
    for rest in [*of(dockerfile, "ENV"), *of(dockerfile, "ARG")]:
        assert not re.search(r"(?i)password|secret|(^|_)token|api_key", rest), rest
    names = ("runs/secret.yaml", ".env", "deploy/compose/secrets/ray_token", ".git/config")
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert not [
        name for name in names for pattern in sent if fnmatch.fnmatch(name, pattern) or name.startswith(pattern)
    ]


def test_the_entry_point_takes_the_databases_url_from_a_file(tmp_path: Path) -> None:
    earshot = tmp_path / "earshot"
    earshot.write_text('#!/bin/sh\nprintf "%s|" "$EARSHOT_DATABASE_URL" "$@"\nenv | grep -c _FILE= || true\n')
    earshot.chmod(0o755)
    (tmp_path / "url").write_text("postgresql://somebody@db/earshot\n")
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "EARSHOT_DATABASE_URL_FILE": str(tmp_path / "url")}
    command = [str(DEPLOY / "docker" / "entrypoint.sh"), "serve", "--host", "0.0.0.0 x"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.strip() == "postgresql://somebody@db/earshot|serve|--host|0.0.0.0 x|0"
    environment["EARSHOT_DATABASE_URL_FILE"] = str(tmp_path / "missing")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode != 0, "a service without its database would start another one"
