"""Time until a job's plan: 38,000 training clips, 1,000 held-out ones, and a folder of the size of Qwen2-Audio-7B.

The value is the seconds of `earshot run --dry-run` the first time, with an empty cache folder; `passed` in the details
is true if that is within 60, and the same again within 5 (on 2 cores). `earshot data check` is timed in the same way,
without and with `--decode`. The clips are a third each wav, flac and mp3, of one second, all of different noise; they
have been written just before, so the system's file cache has them. The weights are sparse files.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.dry_run.inputs import HELD_OUT, write_job
from benchmarks.support.result import Result

EARSHOT = Path(sys.executable).parent / "earshot"
TRAIN = 38_000
MOST_SECONDS_COLD, MOST_SECONDS_WARM = 60.0, 5.0


def seconds_of(command: list[str], cache: Path) -> float:
    """Return the duration of a command with a cache folder."""
    started = time.perf_counter()
    done = subprocess.run(
        [str(EARSHOT), *command, "--json"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "EARSHOT_CACHE": str(cache)},
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"earshot {' '.join(command)} failed with exit code {done.returncode}: {done.stderr}")
    return seconds


def timings(home: Path, job: Path) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the name of each command with its seconds the first time and again."""
    commands = {
        "dry_run": ["run", str(job), "--dry-run"],
        "data_check": ["data", "check", str(job)],
        "data_check_decode": ["data", "check", str(job), "--decode"],
    }
    for name, command in commands.items():
        cache = home / f"cache-{name}"
        yield name, {state: round(seconds_of(command, cache), 2) for state in ("cold", "warm")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=TRAIN, help="number of training clips")
    clips = parser.parse_args().clips
    # Exit normally on SIGTERM, so that the folder is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="earshot-dry-run-") as folder:
        job = write_job(Path(folder), clips)
        seconds = dict(timings(Path(folder), job))
    dry_run = seconds["dry_run"]
    bounds = {
        "cold_at_most_60_s": dry_run["cold"] <= MOST_SECONDS_COLD,
        "warm_at_most_5_s": dry_run["warm"] <= MOST_SECONDS_WARM,
    }
    details = {
        "passed": all(bounds.values()),
        "bounds": bounds,
        "clips": clips,
        "held_out_clips": HELD_OUT,
        "seconds": seconds,
    }
    Result("dry_run", dry_run["cold"], "seconds", "lower", details).publish()
    if not details["passed"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
