"""Generate the synchronous client from the asynchronous one.

    python orchestrator/client/generate.py            write orchestrator/client/synchronous.py and sync_connection.py
    python orchestrator/client/generate.py --check    exit with 1 if those files are not what would be written

`make client` writes them; `make lint` and pre-commit check them. A tool for developers, which the wheel leaves out.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import unasync
from ruff.__main__ import find_ruff_bin

ROOT = Path(__file__).parents[2]
FOLDER = Path("orchestrator/client")
TARGETS = {"asynchronous.py": "synchronous.py", "async_connection.py": "sync_connection.py"}
"""The file that is generated from each source."""

_NAMES = {
    "AsyncEarshotClient": "EarshotClient",
    "AsyncConnection": "SyncConnection",
    "async_connection": "sync_connection",
    "AsyncRetrying": "Retrying",
    "AsyncClient": "Client",
    "AsyncBaseTransport": "BaseTransport",
    "asyncio": "time",
    "aclosing": "closing",
    "aclose": "close",
    "aread": "read",
    "aiter_bytes": "iter_bytes",
}
_PHRASES = {
    "asynchronous.py": {
        "as methods to await": "as methods that block",
        "an asynchronous context manager": "a context manager",
    }
}
"""Words of docstrings, which unasync leaves as they are, by source."""


def main() -> int:
    """Write or check the files of the synchronous client; return the exit code."""
    parser = argparse.ArgumentParser(description="Generate the synchronous client from the asynchronous one.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the file is stale")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of the repository")
    arguments = parser.parse_args()
    stale = 0
    for name, generated in TARGETS.items():
        target = arguments.root / FOLDER / generated
        text = synchronous(arguments.root / FOLDER / name)
        if not arguments.check:
            target.write_text(text)
        elif not target.exists() or target.read_text() != text:
            print(f"{FOLDER / generated} does not match {FOLDER / name}: run `make client`", file=sys.stderr)
            stale = 1
    return stale


def synchronous(source: Path) -> str:
    """Return the synchronous version of an asynchronous client, formatted."""
    with TemporaryDirectory() as folder:
        blocking = Path(folder) / source.name
        rule = unasync.Rule(fromdir=f"{source.parent}/", todir=f"{folder}/", additional_replacements=_NAMES)
        unasync.unasync_files([str(source)], [rule])
        text = blocking.read_text()
    for asynchronous, phrase in _PHRASES.get(source.name, {}).items():
        if text.count(asynchronous) != 1:
            raise ValueError(f"{source}: {asynchronous!r} must occur once")
        text = text.replace(asynchronous, phrase)
    # Import order, and `yield from` for a loop that only yields.
    text = _ruff("check", "--select=I,UP028", "--fix-only", "--unsafe-fixes", "--quiet", text=_header(source) + text)
    return _ruff("format", "--quiet", text=text)


def _header(source: Path) -> str:
    return f"# Generated from {source.name} by {Path(__file__).name}: do not edit, run `make client`.\n"


def _ruff(command: str, *options: str, text: str) -> str:
    """Return what ruff makes of a text, with the settings of this repository."""
    run = [find_ruff_bin(), command, *options, "--stdin-filename", str(ROOT / FOLDER / "synchronous.py"), "-"]
    return subprocess.run(run, input=text, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main())
