"""Reading the job files that commands are given."""

import json
from pathlib import Path

from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import read_spec, resolve_paths


def read_job(path: Path, seed: int | None = None) -> JobSpec:
    """Return the job of a file, with absolute paths and `seed` in place of the file's own. Raises SpecError."""
    return resolve_paths(read_spec(path, {} if seed is None else {"seed": seed}), path.resolve().parent)


def is_job_file(location: str) -> bool:
    """Return whether a file is a job rather than a question file: YAML, or a JSON object with `model` or `data`."""
    path = Path(location)
    if path.suffix in (".yaml", ".yml"):
        return True
    if path.suffix != ".json" or not path.is_file():
        return False
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and bool({"model", "data"} & value.keys())
