"""Does the demo learn to listen, whatever the seed? Runs `earshot demo` for several seeds, one behind the other.

The value is the smallest gain in held-out accuracy, in points. `passed` in the details is true when, for every seed,
the gain is at least 25 points, the baseline lies between chance and 60 %, silence is at most 10 points above chance,
the job takes at most 600 s and making the base at most 360 s (on 2 cores).
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.result import Result

EARSHOT = Path(sys.executable).parent / "earshot"


def run_demo(seed: int, folder: Path) -> dict[str, Any]:
    """The JSON that `earshot demo` prints for one seed."""
    command = [str(EARSHOT), "demo", "--json", "--seed", str(seed), "--run-dir", str(folder / f"seed-{seed}")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            stdout, _ = process.communicate(timeout=1500)
        except BaseException:
            # It ends its engines and ranks within ten seconds.
            process.terminate()
            process.wait(timeout=30)
            raise
    if process.returncode:
        raise SystemExit(f"earshot demo --seed {seed} failed with exit code {process.returncode}")
    summary: dict[str, Any] = json.loads(stdout.splitlines()[-1])
    return summary


def judged(summary: dict[str, Any]) -> dict[str, Any]:
    """The figures of one seed, and whether each bound holds."""
    gain = 100 * (summary["final_accuracy"] - summary["baseline_accuracy"])
    bounds = {
        "gain_at_least_25_points": gain >= 25,
        "baseline_between_chance_and_60": summary["chance_accuracy"] - 0.03 <= summary["baseline_accuracy"] <= 0.6,
        "silence_at_most_10_points_above_chance": summary["silence_accuracy"] <= summary["chance_accuracy"] + 0.1,
        "at_least_200_questions": summary["evaluation_questions"] >= 200,
        "seconds_at_most_600": summary["seconds"] <= 600,
        "base_seconds_at_most_360": summary["base_seconds"] <= 360,
    }
    names = ("seed", "baseline_accuracy", "final_accuracy", "silence_accuracy", "seconds", "base_seconds", "steps")
    figures = {name: round(summary[name], 4) for name in names}
    return {**figures, "gain_points": round(gain, 1), "bounds": bounds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    seeds = parser.parse_args().seeds
    # Its folder and the demo go with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="earshot-demo-") as folder:
        runs = [judged(run_demo(seed, Path(folder))) for seed in seeds]
    passed = all(all(run["bounds"].values()) for run in runs)
    smallest = min(run["gain_points"] for run in runs)
    Result("demo_learns", smallest, "points", "higher", {"passed": passed, "runs": runs}).publish()
    if not passed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
