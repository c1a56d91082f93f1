"""Resuming a run: from which checkpoint, and with which changes to its job file and its inputs.

Invariant: a run does not continue with other questions, another model or other reward code than it began with, unless
that was accepted; then an event says from which step on.
"""

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from audio_qa.errors import shown
from orchestrator.driver.recovery import roll_back_to_checkpoint
from orchestrator.job.marked import marked_names
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError
from orchestrator.preflight.inputs import (
    EVALUATION,
    TRAIN,
    InputChange,
    InputDigest,
    differences,
    inputs_of,
    recorded_inputs,
    write_inputs,
)
from orchestrator.preflight.prepare import Prepared
from orchestrator.run.checkpoints import checkpoints_of
from orchestrator.run.directory import RunDirectory
from orchestrator.run.events import EventKind
from orchestrator.training.state import RunState
from protocol.marks import PathTo, Resume


def check_same_job(run: RunDirectory, old: JobSpec, new: JobSpec) -> None:
    """Raise SpecError unless the run of `old` can be that of `new`. It names each field that differs and must not.

    A path may differ where the content at its end is recorded: `check_inputs` compares that.
    """
    free = tuple(marked_names(JobSpec, (Resume.FREE,) if new.deterministic else tuple(Resume)))
    paths, recorded = set(marked_names(JobSpec, tuple(PathTo))), run.inputs() is not None
    changed = [
        f"{name} (was {shown(was)}, is {shown(now)})"
        for name, was, now in _differences(old.model_dump(mode="json"), new.model_dump(mode="json"))
        if not any(name == field or name.startswith(f"{field}.") for field in free)
        and not (name in paths and (recorded or _same_place(was, now)))
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


def check_inputs(run: RunDirectory, prepared: Prepared, remedy: str, *, accept: bool = False) -> dict[str, Any]:
    """Compare a job's inputs with those that its run began with, and record what is new.

    Call it with the run's lock, after the directory was brought up to its stored copy.

    Args:
        remedy: what the user can do about a difference.
        accept: continue with other inputs. An event notes them.

    Returns:
        What the event `resumed` should say about the comparison; empty if every input is the same.

    Raises:
        SpecError: inputs differ. Nothing was changed.
    """
    now, recorded = inputs_of(prepared), recorded_inputs(run)
    if recorded is None:
        changes, unknown = _earlier_differences(run, prepared, now)
    else:
        changes, unknown = differences(recorded.inputs, now)
    other_version = None if recorded is None or recorded.earshot == version("earshot") else recorded.earshot
    if changes and not accept:
        by = f" (recorded by Earshot {other_version})" if other_version else ""
        raise SpecError(
            f"{run.path}: this run was started with other inputs{by}: {'; '.join(map(str, changes))}; {remedy}"
        )
    if changes:
        step = checkpoints_of(run, prepared.spec).latest() or 0
        run.append_event(EventKind.INPUTS_CHANGED, step=step, inputs=[change.as_event() for change in changes])
    before = {} if recorded is None else recorded.inputs
    write_inputs(run, now | {name: before[name] for name in unknown if name in before and before[name].digest})
    return ({"not_compared": unknown} if unknown else {}) | ({"earshot": other_version} if other_version else {})


def resume(run: RunDirectory, spec: JobSpec, job_yaml: str, noted: Mapping[str, Any] | None = None) -> RunState:
    """Roll the run back to its last checkpoint, under a new job file. Returns the state from which it continues.

    Args:
        noted: further fields of the event `resumed`, from `check_inputs`.
    """
    state = RunState()
    roll_back_to_checkpoint(run, checkpoints_of(run, spec), state)
    run.write_job(job_yaml)
    run.append_event(EventKind.RESUMED, step=state.step, questions=state.position, **(noted or {}))
    return state


def _earlier_differences(
    run: RunDirectory, prepared: Prepared, now: Mapping[str, InputDigest]
) -> tuple[list[InputChange], list[str]]:
    """Compare with an earlier version's run, of which only the question files' hashes are known, from an event."""
    events = [event for event in run.events() if event["kind"] == EventKind.DATA]
    if not events and checkpoints_of(run, prepared.spec).latest() is None:
        return [], []  # nothing was done yet
    changes, known = [], set[str]()
    for split, name in (("train", TRAIN), ("evaluation", EVALUATION)):
        was, is_ = (_file_digest(source.get(split)) for source in (events[-1] if events else {}, prepared.data))
        if was is not None and is_ is not None:
            known.add(name)
            if (was.digest, was.size) != (is_.digest, is_.size):
                changes.append(InputChange(name, was, is_))
    return changes, [name for name in now if name not in known]


def _file_digest(source: Any) -> InputDigest | None:
    """Return the digest of a question file from its description in an event; None if it has none."""
    if not isinstance(source, Mapping) or not source.get("sha256"):
        return None
    return InputDigest(source["sha256"], str(source.get("location", "")), f"{source.get('questions')} questions")


def _same_place(was: Any, now: Any) -> bool:
    """Return whether two paths lead to the same file: one of them may go through a link."""
    if not isinstance(was, str) or not isinstance(now, str):
        return False
    return Path(was).exists() and Path(was).resolve() == Path(now).resolve()


def _differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the fields that differ, by dotted name."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))
    elif old != new:
        yield name, old, new
