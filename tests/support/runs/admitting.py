"""Admission without its processes: the rules alone, in the process of the test."""

from collections.abc import Callable
from pathlib import Path

from orchestrator.job.allowed import Allowed, check_names
from orchestrator.job.spec import JobSpec
from orchestrator.questions.job_paths import JobPaths
from orchestrator.service.admission.admission import OWN_RULES, Admitted
from orchestrator.service.admission.private import private_files


def allowing(*roots: Path, data_dir: Path | None = None) -> Allowed:
    """Return what a service with these roots allows."""
    return Allowed(roots=tuple(map(str, roots)), private=private_files(data_dir))


def admitted(spec: JobSpec, allowed: Allowed, owns: Callable[[str], bool] = lambda _: False) -> Admitted:
    """Check a job as its submission does."""
    check_names(spec, allowed, OWN_RULES)
    readable = allowed.readable(owns)
    paths = JobPaths(spec, readable, allowed.writable())
    resolved = paths.resolved()
    paths.check_content(lambda _: None)
    return Admitted(resolved, readable.used)
