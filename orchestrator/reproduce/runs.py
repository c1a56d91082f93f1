"""Runs the rows sequentially, each in a run directory of its own under one folder.

Invariant: a row that is done is not run again, and a row that was started continues from its last checkpoint, or from
its start if it has none. A run with other settings, questions or another model is refused before anything is started.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audio_qa.errors import shown
from orchestrator.display.progress import Progress, reporter
from orchestrator.driver.driver import run_job
from orchestrator.driver.resume import check_inputs, check_resumable, resume
from orchestrator.job.marked import marked_names, replace_marked
from orchestrator.job.memory.fit import check_memory
from orchestrator.job.sections.data import SYNTHETIC
from orchestrator.job.sections.model import TINY_MODELS
from orchestrator.job.spec import JobSpec, Method
from orchestrator.job.spec_file import SpecError, absolute, dump_spec, read_spec, resolve_path, resolve_paths
from orchestrator.preflight.inputs import InputDigest, differences, file_inputs, recorded_inputs
from orchestrator.preflight.model_folder import (
    check_attention,
    check_context,
    check_model_folder,
    check_tensor_parallel,
)
from orchestrator.preflight.plan import model_sizes, to_fill_in
from orchestrator.preflight.prepare import by_solve_rate, job_questions, prepare
from orchestrator.preflight.room import check_room
from orchestrator.questions.splits import read_split
from orchestrator.reproduce.rows import TableRow
from orchestrator.run.directory import RunDirectory
from orchestrator.run.files import JOB
from orchestrator.run.history import history_of
from orchestrator.run.records import RunDirectoryError
from orchestrator.training.state import RunState
from protocol.marks import PathTo

_OPTIONS = {"model.path": "--model", "data.train": "--train", "data.evaluation": "--evaluation"}
"""Fields that a recipe may leave open, and the options that fill them in."""
_REMEDY = "put back what it had, name another folder with --run-dir, or remove it"


@dataclass(frozen=True, slots=True)
class RowRun:
    """One row under one seed."""

    row: TableRow
    spec: JobSpec
    path: Path
    """Its run directory, which need not exist yet."""

    @property
    def done(self) -> bool:
        """True if it ran to its end: its job succeeded, or was stopped after its last checkpoint and evaluation."""
        if not self.started:
            return False
        directory, steps = RunDirectory(self.path), self.spec.steps
        if (directory.summary() or {}).get("state") == "succeeded":
            return True
        return steps > 0 and directory.checkpoint(steps).is_dir() and self._last_evaluation() is not None

    @property
    def started(self) -> bool:
        return (self.path / JOB).is_file()

    def summary(self) -> dict[str, Any] | None:
        return RunDirectory(self.path).summary() if self.started else None

    def state(self) -> str:
        """Return `waiting` before its start; else the last state of its job."""
        if not self.started:
            return "waiting"
        if self.done:
            return "succeeded"
        return history_of(RunDirectory(self.path).events()).state or "starting"

    def evaluation(self) -> dict[str, Any] | None:
        """Return the evaluation at the end; None if the row is not done."""
        return self._last_evaluation() if self.done else None

    def _last_evaluation(self) -> dict[str, Any] | None:
        evaluations = RunDirectory(self.path).evaluations()
        return evaluations[-1][1] if evaluations and evaluations[-1][0] == self.spec.steps else None


def row_runs(rows: Sequence[TableRow], seeds: int, recipes: Path, home: Path, fill: Mapping[str, str]) -> list[RowRun]:
    """Return the runs of the rows, all rows of the first seed first.

    Args:
        seeds: number of seeds, starting with the recipe's.
        recipes: folder of the rows' job files.
        fill: values for `model.path`, `data.train` and `data.evaluation`, which replace those of the recipes.

    Raises:
        SpecError: a recipe is missing or not valid, or has an open field that is not filled in.
    """
    runs = []
    missing: dict[str, str] = {}
    for offset in range(seeds):
        for row in rows:
            file = recipes / f"{row.name}.yaml"
            spec = resolve_paths(_filled(read_spec(file), fill), absolute(file).parent)
            missing |= to_fill_in(spec)
            seed = spec.seed + offset
            runs.append(RowRun(row, spec.model_copy(update={"seed": seed}), home / f"seed-{seed}" / row.name))
    if missing:
        open_keys = [key for key in marked_names(JobSpec, tuple(PathTo)) if key in missing]
        options = [_OPTIONS.get(key, key) for key in open_keys]
        lacking = ", ".join(missing[key] for key in open_keys)
        raise SpecError(f"{recipes}: {lacking}: name yours with {', '.join(options)}")
    return runs


def _filled(spec: JobSpec, fill: Mapping[str, str]) -> JobSpec:
    given = {key: resolve_path(value, Path.cwd()) for key, value in fill.items()}
    return replace_marked(spec, tuple(PathTo), given.get)


def check(runs: Sequence[RowRun]) -> None:
    """Check all rows before the first one starts.

    Raises:
        SpecError, DatasetError, RunDirectoryError: one line that names the problem.
    """
    # The rows share models and questions: each is checked once.
    for path in {run.spec.model.path for run in runs} - set(TINY_MODELS):
        check_model_folder(path)
    checked = set()
    inputs: dict[str, dict[str, InputDigest]] = {}
    for run in runs:
        data = run.spec.data
        check_context(run.spec)
        check_attention(run.spec)
        check_tensor_parallel(run.spec)
        if not run.done:
            sizes = model_sizes(run.spec)
            if not run.started:
                check_memory(run.spec, sizes)
            check_room(run.spec, sizes, run.path)
        read = {"train": data.train} if run.spec.method is not Method.EVALUATE else {}
        for split, source in {**read, "evaluation": data.evaluation}.items():
            if source not in (None, SYNTHETIC) and (split, source) not in checked:
                checked.add((split, source))
                found = read_split(data, "train" if split == "train" else "evaluation", check_audio=False)
                if split == "evaluation" and not found.labelled:
                    raise SpecError(f"data.evaluation: {shown(source)} has no answers; the table needs their accuracy")
        if run.started:
            _check_same(run)
            _check_same_inputs(run, inputs)
        elif run.path.exists() and (not run.path.is_dir() or any(run.path.iterdir())):
            raise RunDirectoryError(run.path, "not a run of this row; name another folder with --run-dir")


def _check_same(run: RowRun) -> None:
    """Raise SpecError if a row was run with other settings."""
    directory = RunDirectory(run.path)
    if not run.done:
        check_resumable(directory, read_spec(directory.job_file), run.spec)
    elif _without_paths(directory, read_spec(directory.job_file)) != _without_paths(directory, run.spec):
        raise SpecError(
            f"{run.path}: this row was run with other settings; name another folder with --run-dir, or remove it"
        )


def _without_paths(directory: RunDirectory, spec: JobSpec) -> JobSpec:
    """Return a job with empty paths where its run recorded the content, which `_check_same_inputs` compares."""
    return spec if directory.inputs() is None else replace_marked(spec, tuple(PathTo), lambda *_: "")


def _check_same_inputs(run: RowRun, read: dict[str, dict[str, InputDigest]]) -> None:
    """Raise SpecError if a row was run with other questions or another model: it would stay in the table.

    Args:
        read: the inputs of earlier rows, by what they depend on; rows share them.
    """
    recorded = recorded_inputs(RunDirectory(run.path))
    if recorded is None:
        return
    spec = run.spec
    data = spec.data.model_dump_json(exclude={"prompt", "shuffle"})
    asked = f"{data} {spec.method is Method.EVALUATE} {spec.evaluation.questions} {spec.seed} {spec.model.path}"
    if asked not in read:
        train, held_out, _ = job_questions(spec, lambda *_: None)
        train, _ = by_solve_rate(spec, train)
        read[asked] = file_inputs(spec, train, () if held_out is None else held_out.questions)
    now = read[asked]
    changes, _ = differences({name: recorded.inputs[name] for name in now if name in recorded.inputs}, now)
    if changes:
        raise SpecError(f"{run.path}: this row was run with other inputs: {'; '.join(map(str, changes))}; {_REMEDY}")


def run_row(run: RowRun, progress: Progress) -> None:
    """Run a row to its end, from its last checkpoint if it was started.

    Raises:
        SpecError, DatasetError, …: bad input; and the error that ended the job early.
    """
    started = time.perf_counter()
    prepared = prepare(run.spec, reporter(progress))
    base_seconds = 0.0 if prepared.base_cached else prepared.base_seconds or 0.0
    state: RunState | None = None
    if run.started:
        directory = RunDirectory(run.path)
        with directory.lock():
            noted = check_inputs(directory, prepared, _REMEDY)
            state = resume(directory, run.spec, dump_spec(run.spec), noted)
    else:
        directory = RunDirectory.create(run.path, dump_spec(run.spec))
    run_job(prepared, directory, progress, started + base_seconds, state)
