"""The repository stays easy to find one's way in: small folders, small files, every package described."""

import ast
import subprocess
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
MOST_MODULES, MOST_LINES, MOST_LINES_OF_TESTS = 13, 300, 320
PACKAGES = ("audio_qa", "protocol", "rollout_workers", "reward", "learner", "orchestrator")


def _modules() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [Path(name) for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_no_folder_holds_much_more_than_a_dozen_modules():
    counts = Counter(path.parent for path in _modules() if path.name != "__init__.py")
    # Benchmarks are scripts, each run by its name.
    del counts[Path("benchmarks")]
    assert not {str(folder): count for folder, count in counts.items() if count > MOST_MODULES}


def test_no_module_is_long():
    lengths = {str(path): len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in _modules()}
    assert not {
        path: length
        for path, length in lengths.items()
        if length > (MOST_LINES_OF_TESTS if path.startswith("tests/") else MOST_LINES)
    }


def test_every_package_and_module_says_what_it_is():
    ours = [path for path in _modules() if path.parts[0] in PACKAGES]
    assert not [str(path) for path in ours if not ast.get_docstring(ast.parse((ROOT / path).read_text("utf-8")))]
    assert not [
        str(path.parent)
        for path in ours
        if not (ROOT / path.parent / "__init__.py").is_file() and path.parent.name != "versions"
    ]


def test_class_names_exist_once():
    """A name that exists twice has to be looked up each time it is read."""
    names = Counter(
        node.name
        for path in _modules()
        if path.parts[0] in PACKAGES
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert not [name for name, count in names.items() if count > 1]
