"""Are the paper's rows, tiny, run within an hour? Runs `earshot reproduce --tiny` as it is, with its default seeds.

The value is the minutes it takes; `passed` in the details says whether all rows are done and it is at most 60 (on 2
cores). The tiny models are made anew, as on a machine that has none. What the rows show is in the details, whatever it
is: nothing about accuracy can make this pass or fail.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.result import Result

EARSHOT = Path(sys.executable).parent / "earshot"
MOST_MINUTES = 60.0


def reproduce(folder: Path) -> dict[str, Any]:
    """The table that the command prints."""
    command = [str(EARSHOT), "reproduce", "--tiny", "--json", "--run-dir", str(folder / "reproduce")]
    environment = {**os.environ, "EARSHOT_CACHE": str(folder / "cache")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            stdout, _ = process.communicate(timeout=2 * 60 * MOST_MINUTES)
        except BaseException:
            # It ends its engines and ranks within ten seconds.
            process.terminate()
            process.wait(timeout=30)
            raise
    if process.returncode not in (0, 1) or not stdout.strip():
        raise SystemExit(f"earshot reproduce --tiny failed with exit code {process.returncode}")
    table: dict[str, Any] = json.loads(stdout.splitlines()[-1])
    return table


def judged(table: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Whether it was in time, and the table's figures."""
    bounds = {"all_rows_done": bool(table["complete"]), "minutes_at_most_60": seconds <= 60 * MOST_MINUTES}
    rows = {row["name"]: row["figures"] | {"by_seed": row["by_seed"]} for row in table["rows"]}
    return {
        "passed": all(bounds.values()),
        "bounds": bounds,
        "seeds": table["seeds"],
        "rows": rows,
        "differences": table["questions"],
    }


def main() -> None:
    # Its folder and the command go with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="earshot-reproduce-") as folder:
        started = time.perf_counter()
        table = reproduce(Path(folder))
        seconds = time.perf_counter() - started
    details = judged(table, seconds)
    Result("reproduce_tiny", round(seconds / 60, 1), "minutes", "lower", details).publish()
    if not details["passed"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
