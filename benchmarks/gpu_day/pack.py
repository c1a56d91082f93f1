"""Bring the check to a machine that has torch and a GPU, but neither a network nor Earshot's environment.

    python -m benchmarks.gpu_day.pack needs --there NAMES.txt      # distributions that are missing there
    pip download --no-deps -d wheels …                             # fetch them, for the Python of that machine
    python -m benchmarks.gpu_day.pack archives wheels packed       # archives below 60 MiB each

On the machine, unpack all archives into one folder and run `bare/run.sh FOLDER` from the repository's root. Of vLLM's
compiled files only those that one GPU with bfloat16 needs are packed (`_VLLM_COMPILED`). Ray is left out: a stand-in is
imported, and the part `job` is skipped. Try the set first where it is assembled: with Python and torch of the same
versions as there, `bare/run.sh FOLDER --small` imports all of it.

Never used with a GPU yet.
"""

import argparse
import fnmatch
import importlib
import importlib.metadata
import io
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

_MODULES = ("inputs", "start", "sleep", "gaps", "updates", "rates", "part")
_LEFT_OUT = {"earshot", "ray"}
_VLLM_COMPILED = ("*_C_stable_libtorch*.so", "*_vllm_fa3_C*.so", "*_vllm_fa2_C*.so", "*cumem_allocator*.so")
"""Kernels, FlashAttention and sleep mode's allocator. Others are for mixtures of experts and other hardware."""
_MOST_MIB = 60


def needs() -> set[str]:
    """Return the distributions whose modules the parts import, their engine's included; a few can be done without."""
    for module in _MODULES:
        importlib.import_module(f"benchmarks.gpu_day.{module}")
    for module in ("vllm.v1.engine.core", "vllm.v1.worker.gpu_worker", "vllm.v1.worker.gpu_model_runner", "deepspeed"):
        importlib.import_module(module)
    owners = importlib.metadata.packages_distributions()
    loaded = {name.partition(".")[0] for name in sys.modules}
    return {distribution.lower() for name in loaded for distribution in owners.get(name, ())} - _LEFT_OUT


def _is_needed(wheel: Path, name: str) -> bool:
    if not wheel.name.startswith("vllm-") or not name.endswith(".so"):
        return True
    return any(fnmatch.fnmatch(name, pattern) for pattern in _VLLM_COMPILED)


def _groups(wheels: Path, most_bytes: int) -> Iterator[list[tuple[Path, str]]]:
    """Yield the files of each archive, as a wheel and a name in it. Raises ValueError for a file that is too long."""
    group: list[tuple[Path, str]] = []
    filled = 0
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            infos = [i for i in archive.infolist() if not i.is_dir() and _is_needed(wheel, i.filename)]
        for info in infos:
            size = info.compress_size
            if size > most_bytes:
                raise ValueError(
                    f"{info.filename} of {wheel.name} has {size} bytes when compressed, more than {most_bytes}"
                )
            if filled + size > most_bytes:
                yield group
                group, filled = [], 0
            group.append((wheel, info.filename))
            filled += size
    if group:
        yield group


def write_archives(wheels: Path, target: Path, most_bytes: int) -> list[Path]:
    """Write the needed files of all wheels in a folder to archives, each about `most_bytes` long at most.

    Raises ValueError for a file that is longer alone.
    """
    target.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for group in _groups(wheels, most_bytes):
        written.append(target / f"packages-{len(written) + 1}.tar.xz")
        with tarfile.open(written[-1], "w:xz") as archive:
            for wheel, name in group:
                with zipfile.ZipFile(wheel) as source:
                    data = source.read(name)
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(data), 0o755 if name.endswith(".so") else 0o644
                archive.addfile(entry, io.BytesIO(data))
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    needed = commands.add_parser("needs", help="print the distributions that the check imports")
    needed.add_argument("--there", type=Path, help="file with the names of those that the machine has, one a line")
    packed = commands.add_parser("archives", help="pack wheels")
    packed.add_argument("wheels", type=Path)
    packed.add_argument("target", type=Path)
    packed.add_argument("--most-mib", type=float, default=_MOST_MIB)
    arguments = parser.parse_args()
    if arguments.command == "needs":
        there = set(arguments.there.read_text().lower().split()) if arguments.there else set()
        print("\n".join(sorted(needs() - there)))
    else:
        for file in write_archives(arguments.wheels, arguments.target, int(arguments.most_mib * 2**20)):
            print(file, file.stat().st_size)


if __name__ == "__main__":
    main()
