"""The process of one part: `python -m benchmarks.gpu_day.part NAME FOLDER`, started by `benchmarks.gpu_day.process`."""

import asyncio
import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gpu_day.plan import Home, Plan, findings_file

_FUNCTIONS = {
    "model": "inputs:write_inputs",
    "engine": "start:start_engine",
    "sleep": "sleep:sleep_and_wake",
    "gaps": "gaps:measure_gaps",
    "shared_memory": "updates:by_shared_memory",
    "cuda_ipc": "updates:by_cuda_ipc",
    "job": "job:run_job",
    "rates": "rates:measure_rates",
}
"""Imported in the part's own process only: what is missing there is that part's failure."""


def function_of(name: str) -> Callable[[Home], Coroutine[Any, Any, Any]]:
    """Return the function of a part."""
    module, _, function = _FUNCTIONS[name].partition(":")
    found: Callable[[Home], Coroutine[Any, Any, Any]] = getattr(
        importlib.import_module(f"benchmarks.gpu_day.{module}"), function
    )
    return found


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    home = Home(folder, Plan.read(folder), name)
    try:
        found = asdict(asyncio.run(function_of(name)(home)))
    except Exception as error:
        traceback.print_exc()
        found = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
    partial = findings_file(folder, name).with_suffix(".partial")
    partial.write_text(json.dumps(found))
    partial.replace(findings_file(folder, name))
    sys.stdout.flush()
    sys.stderr.flush()
    # An exit in order waits for threads of libraries, which can hang. Engines end with this process.
    os._exit(1 if "error" in found else 0)


if __name__ == "__main__":
    main()
