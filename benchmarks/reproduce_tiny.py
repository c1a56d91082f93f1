"""Duration of `earshot reproduce --tiny` with its default seeds: the paper's rows with a tiny model.

The value is the number of minutes; `passed` in the details is true if all rows are complete within 60 (on 2 cores). The
tiny models are built again, as on a new machine. The rows' figures are in the details; `passed` does not depend on
them.
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

from benchmarks.support.result import Result

EARSHOT = Path(sys.executable).parent / "earshot"
MOST_MINUTES = 60.0


def reproduce(folder: Path) -> dict[str, Any]:
    """Return the table that the command prints."""
    command = [str(EARSHOT), "reproduce", "--tiny", "--json", "--run-dir", str(folder / "reproduce")]
    environment = {**os.environ, "EARSHOT_CACHE": str(folder / "cache")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            stdout, _ = process.communicate(timeout=2 * 60 * MOST_MINUTES)
        except BaseException:
            # The command stops its engines and ranks within ten seconds.
            process.terminate()
            process.wait(timeout=30)
            raise
    if process.returncode not in (0, 1) or not stdout.strip():
        raise SystemExit(f"earshot reproduce --tiny failed with exit code {process.returncode}")
    table: dict[str, Any] = json.loads(stdout.splitlines()[-1])
    return table


def check_bounds(table: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Return whether the bounds hold, and the table's figures."""
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
    # Exit normally on SIGTERM, so that the folder is removed and the command stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="earshot-reproduce-") as folder:
        started = time.perf_counter()
        table = reproduce(Path(folder))
        seconds = time.perf_counter() - started
    details = check_bounds(table, seconds)
    Result("reproduce_tiny", round(seconds / 60, 1), "minutes", "lower", details).publish()
    if not details["passed"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
