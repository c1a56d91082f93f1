"""Resuming a run: from which checkpoint, and with which changes to its job file."""

from collections.abc import Iterator
from typing import Any

from orchestrator.driver.recovery import roll_back_to_checkpoint
from orchestrator.job.marked import marked_names
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError
from orchestrator.run.checkpoints import checkpoints_of
from orchestrator.run.directory import RunDirectory
from orchestrator.run.events import EventKind
from orchestrator.training.state import RunState
from protocol.marks import Resume


def check_same_job(run: RunDirectory, old: JobSpec, new: JobSpec) -> None:
    """Raise SpecError unless the run of `old` can be that of `new`. It names each field that differs and must not."""
    free = tuple(marked_names(JobSpec, (Resume.FREE,) if new.deterministic else tuple(Resume)))
    changed = [
        f"{name} (was {was!r}, is {now!r})"
        for name, was, now in _differences(old.model_dump(mode="json"), new.model_dump(mode="json"))
        if not any(name == field or name.startswith(f"{field}.") for field in free)
    ]
    if changed:
        raise SpecError(
            f"{run.path}: this run was started with other values of {', '.join(changed)}; "
            "resume it with the values it had, or start a new run"
        )


def check_resumable(run: RunDirectory, old: JobSpec, new: JobSpec, stored: int | None = None) -> None:
    """Raise SpecError unless the run of `old` can be resumed as `new`.

    Args:
        stored: the last step with a checkpoint in the run's storage, which may be ahead of the directory.
    """
    check_same_job(run, old, new)
    if run.evaluation_file.is_file():
        raise SpecError(f"{run.path}: the evaluation is done, there is nothing to resume; start a new run")
    done = [step for step in (checkpoints_of(run, new).latest(), stored) if step is not None]
    if done and max(done) >= new.steps:
        raise SpecError(
            f"{run.path}: the run has done its {max(done)} steps, there is nothing to resume; raise steps to continue"
        )


def resume(run: RunDirectory, spec: JobSpec, job_yaml: str) -> RunState:
    """Roll the run back to its last checkpoint, under a new job file. Returns the state from which it continues."""
    state = RunState()
    roll_back_to_checkpoint(run, checkpoints_of(run, spec), state)
    run.write_job(job_yaml)
    run.append_event(EventKind.RESUMED, step=state.step, questions=state.position)
    return state


def _differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the fields that differ, by dotted name."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))
    elif old != new:
        yield name, old, new
