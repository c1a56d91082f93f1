"""Every link, anchor and path in the pages leads to something that exists."""

import re
import subprocess
from pathlib import Path

import pytest
from docs.pages import PAGES, ROOT, anchors, name_of, prose

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)[^)]*\)")
_PACKAGES = "audio_qa|protocol|rollout_workers|reward|learner|orchestrator"
_FOLDERS = f"{_PACKAGES}|benchmarks|deploy|docs|examples|requirements|tests"
_FILE = re.compile(rf"`((?:{_FOLDERS})/(?:[\w./-]*/|[\w./-]+\.[a-z]+))`")
# `reward/accuracy` and `learner/updates` are metrics.
_FOLDER = re.compile(r"`((?:audio_qa|protocol|rollout_workers|orchestrator|tests)/[\w/-]+)`")
# `learner.loss` and `reward.judge` are keys of the job file.
_MODULE = re.compile(r"`((?:audio_qa|protocol|rollout_workers|orchestrator)(?:\.\w+)+)`")
_PAGE = re.compile(r"\bdocs/[\w/-]+\.md(?:#[\w-]+)?")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(page: Path):
    broken = []
    for target in _LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            broken.append(f"{target}: no such file")
        elif anchor and (file.suffix != ".md" or anchor not in anchors(file)):
            broken.append(f"{target}: no such heading")
    assert not broken, f"{name_of(page)}: {broken}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_paths_and_modules_that_are_named_exist(page: Path):
    text = page.read_text(encoding="utf-8")
    named = [path for path in (*_FILE.findall(text), *_FOLDER.findall(text)) if "NAME" not in path]
    missing = [path for path in named if not (ROOT / path).exists()]
    if page.name != "CHANGELOG.md":  # it names modules by their old paths, too
        missing += [name for name in _MODULE.findall(text) if not _is_module_or_name_in_one(name)]
    assert not missing, f"{name_of(page)} names {missing}"


def test_pages_that_other_files_name_exist():
    """Examples, manifests, alerts and modules name pages in comments and messages."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.py", "*.yaml", "*.yml", "*.sh", "*.json", "Makefile"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    broken = []
    for name in listed.stdout.splitlines():
        file = ROOT / name
        if not file.is_file() or name.startswith("tests/compatibility/") or file == Path(__file__):
            continue
        for target in _PAGE.findall(file.read_text(encoding="utf-8")):
            path, _, anchor = target.partition("#")
            if not (ROOT / path).is_file() or (anchor and anchor not in anchors(ROOT / path)):
                broken.append(f"{name}: {target}")
    assert not broken, broken


def _is_module_or_name_in_one(name: str) -> bool:
    folder, parts = ROOT, name.split(".")
    while parts and (folder / parts[0]).is_dir():
        folder = folder / parts.pop(0)
    module = folder / "__init__.py"
    if parts and (folder / f"{parts[0]}.py").is_file():
        module = folder / f"{parts.pop(0)}.py"
    return not parts or (
        module.is_file() and re.search(rf"\b{parts[0]}\b", module.read_text(encoding="utf-8")) is not None
    )


@pytest.mark.parametrize(
    ("name", "exists"),
    [("orchestrator.client.EarshotClient", True), ("audio_qa.dataset", True), ("orchestrator.spec.JobSpec", False)],
)
def test_modules_are_told_from_names_that_do_not_exist(name: str, exists: bool):
    assert _is_module_or_name_in_one(name) is exists
