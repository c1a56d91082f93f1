"""Render a kustomization without kustomize: the fields that ours use; any other is an error."""

from pathlib import Path
from typing import Any

import yaml
from support.cluster.manifests import read_yaml

Manifest = dict[str, Any]
_FIELDS = {"apiVersion", "kind", "namespace", "resources", "patches", "configMapGenerator"}
_OF_NO_NAMESPACE = {"Namespace"}


def render(folder: Path) -> list[Manifest]:
    """Return the manifests of a folder with a kustomization.yaml."""
    (kustomization,) = read_yaml(folder / "kustomization.yaml")
    unknown = kustomization.keys() - _FIELDS
    assert not unknown, f"{folder}: this helper does not know {sorted(unknown)}"
    manifests: list[Manifest] = []
    for resource in kustomization.get("resources", []):
        path = (folder / resource).resolve()
        manifests += render(path) if path.is_dir() else read_yaml(path)
    manifests += [_config_map(folder, each) for each in kustomization.get("configMapGenerator", [])]
    for patch in kustomization.get("patches", []):
        found = [m for m in manifests if all(_at(m, key) == value for key, value in patch["target"].items())]
        assert found, f"{folder}: nothing is {patch['target']}"
        for manifest in found:
            for operation in yaml.safe_load(patch["patch"]):
                _apply(manifest, operation)
    if "namespace" in kustomization:
        for manifest in manifests:
            if manifest["kind"] not in _OF_NO_NAMESPACE:
                manifest["metadata"]["namespace"] = kustomization["namespace"]
    return manifests


def _at(manifest: Manifest, key: str) -> str:
    return str(manifest["metadata"]["name"] if key == "name" else manifest[key])


def _config_map(folder: Path, made: Manifest) -> Manifest:
    options = made["options"]
    assert made.keys() <= {"name", "files", "options"} and options.pop("disableNameSuffixHash") is True
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": made["name"], **options},
        "data": {name: (folder / name).read_text(encoding="utf-8") for name in made["files"]},
    }


def _apply(document: Any, operation: Manifest) -> None:
    """Apply an operation of RFC 6902: test, add, replace or remove."""
    *way, last = (part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:])
    parent = document
    for part in way:
        parent = parent[int(part) if isinstance(parent, list) else part]
    key: Any = int(last) if isinstance(parent, list) and last != "-" else last
    match operation["op"]:
        case "test":
            assert parent[key] == operation["value"], f"{operation['path']} is {parent[key]!r}"
        case "add" if isinstance(parent, list):
            parent.insert(len(parent) if key == "-" else key, operation["value"])
        case "add":
            parent[key] = operation["value"]
        case "replace":
            assert parent[key] is not None, operation["path"]
            parent[key] = operation["value"]
        case "remove":
            del parent[key]
        case other:
            raise AssertionError(f"this helper does not know the operation {other}")
