"""A peer's Python environment, created from its lock file if it is missing, and kept in the user's cache.

Invariant: an environment is used only if every package of its lock was installed; another lock is another environment.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from orchestrator.places import cache_directory

_TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
_TIMEOUT_SECONDS = 1800
_DONE = ".earshot-ready"


def peer_python(lock: Path) -> Path:
    """Return the interpreter of the environment of `lock`, which has exact pins, one per line, including torch."""
    identity = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:10]
    home = cache_directory() / "peers" / f"{lock.stem}-{identity}"
    python = home / "bin" / "python"
    if (home / _DONE).is_file():
        return python
    print(f"Creating the environment of {lock.stem}: about 1.5 GB, a few minutes.", file=sys.stderr, flush=True)
    shutil.rmtree(home, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(home)])
    pins = lock.read_text().splitlines()
    _install_torch(python, next(pin for pin in pins if pin.startswith("torch==")))
    rest = "\n".join(pin for pin in pins if not pin.startswith("torch=="))
    # The lock leaves out what must not be installed beside a CPU torch: hence --no-deps.
    _run([*_uv(), "--python", str(python), "--no-deps", "-r", "/dev/stdin"], feed=rest)
    (home / _DONE).touch()
    return python


def _install_torch(python: Path, pin: str) -> None:
    """Install torch as the Makefile does: from pip's configured index first, then from PyTorch's CPU index."""
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    first = [*pip, "--retries", "1", pin]
    if subprocess.run(first, check=False, stderr=subprocess.DEVNULL, timeout=_TIMEOUT_SECONDS).returncode != 0:
        _run([*pip, "--index-url", os.environ.get("TORCH_CPU_INDEX", _TORCH_CPU_INDEX), pin])


def _uv() -> list[str]:
    return [str(Path(sys.executable).parent / "uv"), "pip", "install", "--quiet"]


def _run(command: list[str], feed: str | None = None) -> None:
    subprocess.run(command, input=feed, text=True, check=True, timeout=_TIMEOUT_SECONDS)
