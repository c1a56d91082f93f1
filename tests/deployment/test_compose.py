"""The compose file is pinned, has real commands and no secret. `up` runs with a fake docker that records calls."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose
from support.cluster.manifests import DEPLOY, check_earshot, check_image, check_no_secret, check_ray_start, read_yaml

COMPOSE = DEPLOY / "compose"
(DOCUMENT,) = read_yaml(COMPOSE / "compose.yaml")
SERVICES: dict[str, dict[str, Any]] = DOCUMENT["services"]


def test_the_parts_are_there() -> None:
    assert SERVICES.keys() == {"service", "head", "worker", "postgres", "prometheus", "grafana"}
    for service in SERVICES.values():
        check_image(service["image"])
    (gpu,) = read_yaml(COMPOSE / "compose.gpu.yaml")
    assert gpu["services"]["head"]["image"] == gpu["services"]["worker"]["image"]
    for service in gpu["services"].values():
        check_image(service["image"])


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_it_is_what_compose_files_are(name: str) -> None:
    # Compose substitutes variables before it parses the document.
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (COMPOSE / name).read_text())
    document = yaml.safe_load(text)
    PyCompose.from_json(json.dumps(document)).validate()
    for key, value in {
        "restrt": "always",
        "ports": ["127.0.0.1:x:1"],
        "depends_on": {"head": {"condition": "up"}},
    }.items():
        wrong = yaml.safe_load(text)
        next(iter(wrong["services"].values()))[key] = value
        with pytest.raises(ValueError):
            PyCompose.from_json(json.dumps(wrong))


def test_commands_are_real() -> None:
    options = check_earshot(SERVICES["service"]["command"])
    assert options["ray_address"] == "http://head:8265"
    assert SERVICES["service"]["ports"] == [f"127.0.0.1:{options['port']}:{options['port']}"]
    assert str(options["data_dir"]) == "/data/service"
    head = check_ray_start(SERVICES["head"]["command"])
    assert head["--dashboard-port"] == "8265" and head["--num-cpus"] == "0"
    worker = check_ray_start(SERVICES["worker"]["command"])
    assert worker["--address"] == f"head:{head['--port']}"
    assert "--block" in head and "--block" in worker
    (prometheus,) = read_yaml(DEPLOY / "prometheus" / "prometheus.yaml")
    assert prometheus["scrape_configs"][0]["static_configs"][0]["targets"] == [f"service:{options['port']}"]


def test_volumes_exist() -> None:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source = volume.rpartition(":ro")[0] or volume
            source = source.rpartition(":")[0]
            if source.startswith("."):
                assert (COMPOSE / source).exists(), f"{name}: {source}"
            elif not source.startswith("$"):
                assert source in DOCUMENT["volumes"], f"{name}: {source}"
    data = [{v for v in SERVICES[name]["volumes"] if ":/data" in v} for name in ("service", "head", "worker")]
    assert data[0] == data[1] == data[2], "run directories are named by one path everywhere"
    for place in ("/etc/prometheus/rules.yaml", "/etc/prometheus/prometheus.yml"):
        assert any(place in volume for volume in SERVICES["prometheus"]["volumes"])


def test_who_waits_for_whom_has_a_health_check() -> None:
    ours = {"earshot/service": "service", "earshot/worker-cpu": "worker-cpu"}
    for service in SERVICES.values():
        for other in service.get("depends_on", {}):
            image = SERVICES[other]["image"].partition(":")[0]
            dockerfile = DEPLOY / "docker" / f"{ours.get(image)}.Dockerfile"
            assert "healthcheck" in SERVICES[other] or "HEALTHCHECK" in dockerfile.read_text()


def test_secrets_come_as_files_and_are_not_in_git() -> None:
    used = {name for service in SERVICES.values() for name in service.get("secrets", [])}
    assert used == DOCUMENT["secrets"].keys()
    assert "/secrets/" in (COMPOSE / ".gitignore").read_text().splitlines()
    for secret in DOCUMENT["secrets"].values():
        assert secret["file"].startswith("./secrets/")
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if any(word in name for word in ("TOKEN", "PASSWORD", "DATABASE_URL")):
                assert value.startswith("/run/secrets/") and value.rpartition("/")[2] in service["secrets"], name
    for path in sorted(COMPOSE.iterdir()):
        if path.is_file():
            check_no_secret(path)


def test_nothing_listens_beyond_this_machine_and_nothing_gains_rights() -> None:
    for service in SERVICES.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        if not service["image"].startswith("postgres"):
            assert service["cap_drop"] == ["ALL"] and "no-new-privileges:true" in service["security_opt"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Create a copy of the script next to a fake docker that records its arguments and issues numbered tokens."""
    (tmp_path / "bin").mkdir()
    docker = tmp_path / "bin" / "docker"
    docker.write_text('#!/bin/sh\necho "$@" >>"$NOTES"\ncase "$*" in *token*) echo "token-$(wc -l <"$NOTES")";; esac\n')
    docker.chmod(0o755)
    (tmp_path / "up").write_bytes((COMPOSE / "up").read_bytes())
    (tmp_path / "up").chmod(0o755)
    return tmp_path


def up(folder: Path, *arguments: str) -> tuple[str, list[str]]:
    """Run `up`; return its output and the calls of docker."""
    notes = folder / "notes"
    notes.unlink(missing_ok=True)
    environment = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "NOTES": str(notes)}
    command = [str(folder / "up"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=True, cwd="/")
    return done.stdout, notes.read_text().splitlines()


def test_up_makes_secrets_once_and_shows_none(folder: Path) -> None:
    said, told = up(folder, "--scale", "worker=3")
    secrets = {path.name: path.read_text() for path in (folder / "secrets").iterdir()}
    assert secrets.keys() == DOCUMENT["secrets"].keys() | {"admin_token"}
    assert (folder / "secrets").stat().st_mode & 0o777 == 0o700
    for value in secrets.values():
        assert value == value.strip() and value and value not in said
    assert len({secrets[name] for name in ("postgres_password", "ray_token", "grafana_password")}) == 3
    assert all(len(secrets[name]) == 64 for name in ("postgres_password", "ray_token", "grafana_password"))
    assert secrets["database_url"] == f"postgresql://earshot:{secrets['postgres_password']}@postgres/earshot"
    assert told[0] == "compose up --detach --wait postgres"
    assert told[-1] == "compose up --detach --wait --scale worker=3"
    made = [check_earshot(line.partition(" service ")[2].split()) for line in told[1:-1]]
    assert [(one["owner"], one["role"].value) for one in made] == [("admin", "admin"), ("prometheus", "monitor")]
    _, told = up(folder)
    assert told == ["compose up --detach --wait postgres", "compose up --detach --wait"]
    assert {path.name: path.read_text() for path in (folder / "secrets").iterdir()} == secrets
