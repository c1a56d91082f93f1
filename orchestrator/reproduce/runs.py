"""Runs the rows, each a run directory of its own under one folder, one behind the other.

Invariant: a row that is done is not run again, and one that was begun goes on from its last checkpoint, or from its
beginning where it has none. A run of other settings is refused before anything is started.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.display.progress import Progress, reporter
from orchestrator.job.sections.data import SYNTHETIC
from orchestrator.job.sections.model import TINY_MODELS
from orchestrator.job.spec import JobSpec, Method
from orchestrator.job.spec_file import SpecError, dump_spec, read_spec, resolve_path, resolve_paths
from orchestrator.preflight.model_folder import check_context, check_model_folder
from orchestrator.preflight.plan import to_fill_in
from orchestrator.preflight.prepare import prepare
from orchestrator.questions.splits import read_split
from orchestrator.reproduce.rows import TableRow
from orchestrator.run.directory import RunDirectory
from orchestrator.run.records import RunDirectoryError
from orchestrator.training.state import RunState

_OPTIONS = {"model.path": "--model", "data.train": "--train", "data.evaluation": "--evaluation"}
"""What a recipe may leave to be filled in, and the option that does."""


@dataclass(frozen=True, slots=True)
class RowRun:
    """One row under one seed."""

    row: TableRow
    spec: JobSpec
    path: Path
    """Its run directory, there or not yet."""

    @property
    def done(self) -> bool:
        """Whether it ran to its end: its job says so, or was stopped when only ending was left to do."""
        if not self.begun:
            return False
        directory, steps = RunDirectory(self.path), self.spec.steps
        if (directory.summary() or {}).get("state") == "succeeded":
            return True
        return steps > 0 and directory.checkpoint(steps).is_dir() and self._last_evaluation() is not None

    @property
    def begun(self) -> bool:
        return (self.path / "job.yaml").is_file()

    def summary(self) -> dict[str, Any] | None:
        return RunDirectory(self.path).summary() if self.begun else None

    def state(self) -> str:
        """`waiting` before its turn; else the last state of its job."""
        if not self.begun:
            return "waiting"
        if self.done:
            return "succeeded"
        states = [event["state"] for event in RunDirectory(self.path).events() if event["kind"] == "state"]
        return str(states[-1]) if states else "starting"

    def evaluation(self) -> dict[str, Any] | None:
        """How the model did at the end; None before there is one."""
        return self._last_evaluation() if self.done else None

    def _last_evaluation(self) -> dict[str, Any] | None:
        found = RunDirectory(self.path).evaluations()
        return found[-1][1] if found and found[-1][0] == self.spec.steps else None


def row_runs(rows: Sequence[TableRow], seeds: int, recipes: Path, home: Path, fill: Mapping[str, str]) -> list[RowRun]:
    """What is to be run, the rows of the first seed first.

    Args:
        seeds: how many, counted up from the recipe's own.
        recipes: folder of the rows' job files.
        fill: by `model.path`, `data.train`, `data.evaluation`, what goes in the place of the recipes' own.

    Raises:
        SpecError: a recipe that is not there or not valid, or with something left to fill in.
    """
    made = []
    missing: dict[str, str] = {}
    for offset in range(seeds):
        for row in rows:
            file = recipes / f"{row.name}.yaml"
            spec = resolve_paths(_filled(read_spec(file), fill), file.resolve().parent)
            missing |= to_fill_in(spec)
            seed = spec.seed + offset
            made.append(RowRun(row, spec.model_copy(update={"seed": seed}), home / f"seed-{seed}" / row.name))
    if missing:
        options = [option for key, option in _OPTIONS.items() if key in missing]
        lacking = ", ".join(missing[key] for key in _OPTIONS if key in missing)
        raise SpecError(f"{recipes}: {lacking}: name what is yours with {', '.join(options)}")
    return made


def _filled(spec: JobSpec, fill: Mapping[str, str]) -> JobSpec:
    given = {key: resolve_path(value, Path.cwd()) for key, value in fill.items()}
    model = spec.model.model_copy(update={"path": given.get("model.path", spec.model.path)})
    named = {key: given[f"data.{key}"] for key in ("train", "evaluation") if f"data.{key}" in given}
    return spec.model_copy(update={"model": model, "data": spec.data.model_copy(update=named)})


def check(runs: Sequence[RowRun]) -> None:
    """Find what is wrong with any row before the first one starts.

    Raises:
        SpecError, DatasetError, RunDirectoryError: one line that names it.
    """
    # The rows share model and questions: each is looked at once.
    for path in {run.spec.model.path for run in runs} - set(TINY_MODELS):
        check_model_folder(path)
    seen = set()
    for run in runs:
        data = run.spec.data
        if run.spec.model.path not in TINY_MODELS:
            check_context(run.spec)
        read = {"train": data.train} if run.spec.method is not Method.EVALUATE else {}
        for split, source in {**read, "evaluation": data.evaluation}.items():
            if source not in (None, SYNTHETIC) and (split, source) not in seen:
                seen.add((split, source))
                read_split(data, "train" if split == "train" else "evaluation", check_audio=False)
        if run.begun:
            _check_same(run)
        elif run.path.exists() and (not run.path.is_dir() or any(run.path.iterdir())):
            raise RunDirectoryError(run.path, "is no run of this row; name another folder with --run-dir")


def _check_same(run: RowRun) -> None:
    """Refuse a row that was run with other settings."""
    from orchestrator.driver.resume import check_resumable  # noqa: PLC0415

    directory = RunDirectory(run.path)
    if not run.done:
        check_resumable(directory, read_spec(directory.job_file), run.spec)
    elif read_spec(directory.job_file) != run.spec:
        raise SpecError(
            f"{run.path}: this row was run with other settings; name another folder with --run-dir, or remove it"
        )


def carry_out(run: RowRun, progress: Progress) -> None:
    """Run a row to its end, or go on with it.

    Raises:
        SpecError, DatasetError, …: bad input; and whatever ended the job early.
    """
    # Ray takes a second to import, which --help need not wait for.
    from orchestrator.driver.driver import run_job  # noqa: PLC0415
    from orchestrator.driver.resume import resume  # noqa: PLC0415

    started = time.perf_counter()
    prepared = prepare(run.spec, reporter(progress))
    made = 0.0 if prepared.base_cached else prepared.base_seconds or 0.0
    state: RunState | None = None
    if run.begun:
        directory = RunDirectory(run.path)
        with directory.written():
            state = resume(directory, run.spec, dump_spec(run.spec))
    else:
        directory = RunDirectory.create(run.path, dump_spec(run.spec))
    run_job(prepared, directory, progress, started + made, state)
