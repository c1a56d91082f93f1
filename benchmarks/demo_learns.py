"""Gain in accuracy of the demo over several seeds, run sequentially with `earshot demo`.

With `--max-staleness 2` the same job runs asynchronously, for 240 steps instead of 140 and with half the learning rate,
because steps on samples of older weights are less accurate. The result is then `demo_learns_asynchronous`; the bounds
are the same.

The value is the smallest gain in accuracy on held-out questions, in points. `passed` in the details is true if, for
every seed, the gain is at least 25 points, the baseline lies between chance and 60 %, silence is at most 10 points
above chance, the job takes at most 600 s, and building the base model at most 360 s (on 2 cores).
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from benchmarks.support.result import Result

EARSHOT = Path(sys.executable).parent / "earshot"
DEMO = Path(__file__).parent.parent / "examples" / "demo.yaml"
ASYNCHRONOUS_STEPS = 240
ASYNCHRONOUS_LEARNING_RATE = 1.5e-4


def run_demo(seed: int, max_staleness: int, folder: Path) -> dict[str, Any]:
    """Return the JSON that `earshot demo` prints for one seed."""
    command = [str(EARSHOT), "demo"]
    if max_staleness:
        job = yaml.safe_load(DEMO.read_text())
        job["rollout"]["max_staleness"] = max_staleness
        job["steps"] = ASYNCHRONOUS_STEPS
        job["learner"]["optimizer"]["learning_rate"] = ASYNCHRONOUS_LEARNING_RATE
        path = folder / "demo.yaml"
        path.write_text(yaml.safe_dump(job))
        command = [str(EARSHOT), "run", str(path)]
    command += ["--json", "--seed", str(seed), "--run-dir", str(folder / f"seed-{seed}")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            stdout, _ = process.communicate(timeout=1500)
        except BaseException:
            # The command stops its engines and ranks within ten seconds.
            process.terminate()
            process.wait(timeout=30)
            raise
    if process.returncode:
        raise SystemExit(f"earshot demo --seed {seed} failed with exit code {process.returncode}")
    summary: dict[str, Any] = json.loads(stdout.splitlines()[-1])
    return summary


def check_bounds(summary: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of one seed, and whether each bound holds."""
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
    parser.add_argument("--max-staleness", type=int, default=0)
    arguments = parser.parse_args()
    # Exit normally on SIGTERM, so that the folder is removed and the demo stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="earshot-demo-") as folder:
        runs = [check_bounds(run_demo(seed, arguments.max_staleness, Path(folder))) for seed in arguments.seeds]
    passed = all(all(run["bounds"].values()) for run in runs)
    smallest = min(run["gain_points"] for run in runs)
    name = "demo_learns_asynchronous" if arguments.max_staleness else "demo_learns"
    details = {"passed": passed, "max_staleness": arguments.max_staleness, "runs": runs}
    Result(name, smallest, "points", "higher", details).publish()
    if not passed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
