"""Reading the job files that commands are given."""

from pathlib import Path

from audio_qa.audio import is_file
from orchestrator.job.content import MAX_BYTES, is_job
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import absolute, read_spec, resolve_paths


def read_job(path: Path, seed: int | None = None) -> JobSpec:
    """Return the job of a file, with absolute paths and `seed` in place of the file's own. Raises SpecError.

    Relative paths start at the folder in which the file is named, though it may be a link to another; at the current
    folder for a pipe, and for /dev/stdin.
    """
    spec = read_spec(path, {} if seed is None else {"seed": seed})
    folder = absolute(path).parent
    named = is_file(path) and not folder.is_relative_to("/dev")
    return resolve_paths(spec, folder if named else Path.cwd())


def is_job_file(location: str) -> bool:
    """Return whether a file is a job file rather than a question file: by its content, or by the suffix of YAML."""
    path = Path(location)
    if path.suffix.lower() in (".yaml", ".yml"):
        return True
    if not is_file(path):
        return False
    try:
        with path.open("rb") as file:
            return is_job(file.read(MAX_BYTES + 1))
    except OSError:
        return False  # who reads the questions says why
