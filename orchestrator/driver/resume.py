"""Going on with a run: from which checkpoint, and with which changes to its job file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from audio_qa.formats.remote import is_url
from orchestrator.display.report import write_report
from orchestrator.driver.recovery import go_back
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import SpecError
from orchestrator.job.storage_url import split_run
from orchestrator.run.checkpoints import checkpoints_of
from orchestrator.run.directory import RunDirectory
from orchestrator.storage.mirror import mirrored
from orchestrator.storage.restoration import newest_stored
from orchestrator.storage.stored_run import StoredRun, stored_run
from orchestrator.training.state import RunState

# What may change without making the job another one: how much is done, where, and what is kept.
_FREE = (
    "steps",
    "evaluation.every",
    "checkpoint",
    "storage",
    "cluster",
    "tracking",
    "learner.timeout_seconds",
    "learner.max_restarts",
    "learner.max_nonfinite_steps",
    "learner.audio_cache",
    "rollout.limits",
    "rollout.weight_sync",
    "rollout.weight_checksums",
    "reward.max_restarts",
    "reward.max_unscored_in_row",
    "reward.judge.url",
    "reward.judge.api_key_env",
    "reward.judge.timeout_seconds",
    "reward.judge.deadline_seconds",
    "reward.judge.concurrency",
    "reward.judge.max_attempts",
)
# These change the last bits of the numbers, which a deterministic job promises to repeat.
_FREE_UNLESS_DETERMINISTIC = (
    "learner.ranks",
    "learner.zero_stage",
    "learner.offload_optimizer",
    "learner.offload_parameters",
    "learner.micro_batch_tokens",
    "learner.share_prefix",
    "learner.activation_checkpointing",
    "learner.threads",
    "rollout.workers",
    "rollout.autoscale",
    "rollout.max_staleness",
    "rollout.threads",
    "rollout.gpus",
    "rollout.gpu_memory_fraction",
    "rollout.cpu_kv_gib",
    "rollout.max_concurrent",
)


def check_same_job(run: RunDirectory, old: JobSpec, new: JobSpec) -> None:
    """Raise SpecError unless the run of `old` can be that of `new`: naming each field that differs and may not."""
    free = _FREE if new.deterministic else (*_FREE, *_FREE_UNLESS_DETERMINISTIC)
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
    """Raise SpecError unless the run of `old` can go on as `new`.

    Args:
        stored: the last step with a checkpoint in the run's storage, which may be ahead of the directory.
    """
    check_same_job(run, old, new)
    if run.evaluation_file.is_file():
        raise SpecError(f"{run.path}: the evaluation is done, there is nothing to resume; start a new run")
    done = [step for step in (checkpoints_of(run, new).latest(), stored) if step is not None]
    if done and max(done) >= new.steps:
        raise SpecError(
            f"{run.path}: the run has done its {max(done)} steps, there is nothing to resume; raise steps to go on "
            "with it"
        )


def resume(run: RunDirectory, spec: JobSpec, job_yaml: str) -> RunState:
    """Take the run back to its last checkpoint, under the job file as it is now; the state it goes on from."""
    state = RunState()
    go_back(run, checkpoints_of(run, spec), state)
    run.write_job(job_yaml)
    run.append_event("resumed", step=state.step, questions=state.position)
    return state


def _differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The fields that differ, by dotted name."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))
    elif old != new:
        yield name, old, new


def place_of(run_dir: str) -> tuple[Path, str | None]:
    """A run's directory here, and the storage that `run_dir` names where it is a URL. Raises SpecError."""
    if not is_url(run_dir):
        return Path(run_dir), None
    try:
        storage, name = split_run(run_dir)
    except ValueError as error:
        raise SpecError(f"--run-dir: {str(error).removeprefix('storage: ')}") from error
    return Path("runs") / name, storage


def check_beginning(spec: JobSpec, path: Path) -> None:
    """Raise SpecError if a run of this name is stored already, StorageError where nothing could be stored."""
    stored = stored_run(spec, path)
    if stored is not None:
        stored.check_new()


def look(run: RunDirectory, old: JobSpec, new: JobSpec) -> tuple[StoredRun | None, int | None]:
    """Where the run of `old` is stored as `new` goes on with it, and the newest step there.

    Raises:
        SpecError: another run has its name there.
        StorageError: the storage does not answer, so nobody knows where the run is to go on.
    """
    stored = stored_run(new, run.path)
    if stored is None:
        return None, None
    if old.storage != new.storage:
        stored.check_new()
    return stored, newest_stored(stored)


def is_left_to_store(run: RunDirectory, spec: JobSpec, newest: int | None) -> bool:
    """Whether all steps are done and only the storage lacks them."""
    done = checkpoints_of(run, spec).latest()
    return spec.storage is not None and done is not None and done >= spec.steps and (newest is None or newest < done)


def store_rest(run: RunDirectory, spec: JobSpec) -> dict[str, Any]:
    """Store a run that has done its steps; its summary. Raises StorageError."""
    with mirrored(run, spec) as store:
        store()
        run.append_event("state", state="succeeded")
        summary = (run.summary() or {}) | {"state": "succeeded", "stored_at": f"{spec.storage}/{run.path.name}"}
        run.write_summary(summary)
        write_report(run)
    return summary
