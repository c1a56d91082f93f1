"""`earshot run` and `earshot demo`: run a job in the foreground, or resume it."""

import json
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from orchestrator.cli.foreground import at_work, fail, failing, guarded
from orchestrator.cli.results import describe
from orchestrator.display.progress import make_progress, reporter
from orchestrator.driver.resume import check_beginning, is_left_to_store, look, place_of, store_rest
from orchestrator.job.spec import JobSpec
from orchestrator.job.spec_file import dump_spec, read_spec, resolve_paths
from orchestrator.places import examples_folder
from orchestrator.preflight.plan import plan
from orchestrator.preflight.prepare import prepare
from orchestrator.run.checkpoints import checkpoints_of
from orchestrator.run.directory import RunDirectory
from orchestrator.storage.restoration import begin_here, catch_up

RunDirOption = Annotated[
    str | None,
    typer.Option(
        "--run-dir",
        help="Where the run is kept; by default runs/NAME-TIME here. STORAGE/NAME, where STORAGE is s3://… or another "
        "URL, keeps it in runs/NAME here and stores it there.",
    ),
]


JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command()(run)
    app.command()(demo)


def run(
    job: Annotated[
        Path | None, typer.Argument(help="The job file, YAML or JSON; with --resume, by default the run's own.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the job file, its model and questions, and print the plan.")
    ] = False,
    run_dir: RunDirOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --run-dir from its last checkpoint.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Instead of the job file's seed.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a job in the foreground, to its end."""
    started = time.perf_counter()
    if resume and run_dir is None:
        fail("--resume goes on with the run in --run-dir: name it", 2)
    if job is None and not resume:
        fail("name a job file, or go on with a run: --resume --run-dir DIRECTORY", 2)
    if resume and run_dir is not None:
        _resume(run_dir, job, seed, as_json, started)
        return
    file = job
    assert file is not None
    spec = guarded(lambda: _read(file, seed))
    if dry_run:
        planned = guarded(lambda: plan(spec))
        if as_json:
            print(json.dumps(planned))
        else:
            describe(planned, Console())
        return
    _execute(spec, run_dir, as_json, started)


def demo(
    run_dir: RunDirOption = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the tiny model, the questions and the run; by default 0.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Watch a tiny model learn to listen: examples/demo.yaml, six to twenty minutes on two cores the first time."""
    started = time.perf_counter()
    _execute(guarded(lambda: _read(examples_folder() / "demo.yaml", seed)), run_dir, as_json, started)


def _execute(spec: JobSpec, run_dir: str | None, as_json: bool, started: float) -> None:
    """Prepare a new job, run it in this process and print its result."""
    # Ray takes a second to import, which --help and --dry-run need not wait for.
    from orchestrator.driver.driver import run_job  # noqa: PLC0415

    place, storage = guarded(
        lambda: place_of(run_dir or f"runs/{spec.name}-{datetime.now().astimezone():%Y%m%d-%H%M%S}")
    )
    path = place.resolve()
    if storage is not None:
        spec = spec.model_copy(update={"storage": storage})
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        fail(
            f"{path}: the run directory exists and is not empty; name a new one with --run-dir, or --resume it",
            2,
        )
    guarded(lambda: check_beginning(spec, path))
    with at_work(), make_progress("plain" if as_json else "auto") as progress:
        prepared = guarded(lambda: prepare(spec, reporter(progress)))
        made = 0.0 if prepared.base_cached else prepared.base_seconds or 0.0
        run = guarded(lambda: RunDirectory.create(path, dump_spec(spec)))
        # What was made for later runs too is reported by itself, as base_seconds.
        summary = failing(lambda: run_job(prepared, run, progress, started + made))
    _show(summary, run, as_json)


def _resume(run_dir: str, job: Path | None, seed: int | None, as_json: bool, started: float) -> None:
    """Go on with a run from its last checkpoint, here or in its storage."""
    from orchestrator.driver.driver import run_job  # noqa: PLC0415
    from orchestrator.driver.resume import check_resumable, check_same_job, resume  # noqa: PLC0415

    place, storage = guarded(lambda: place_of(run_dir))
    path = place.resolve()
    if job is not None:
        spec = guarded(lambda: _read(job, seed))
    if storage is not None:
        guarded(lambda: begin_here(storage, path))
    if job is None:
        spec = guarded(lambda: _read(path / "job.yaml", seed))
    if storage is not None:
        spec = spec.model_copy(update={"storage": storage})
    run = guarded(lambda: RunDirectory(path))
    old = guarded(lambda: read_spec(run.job_file))
    stored, newest = guarded(lambda: look(run, old, spec))
    if is_left_to_store(run, spec, newest):
        guarded(lambda: check_same_job(run, old, spec))
        with at_work(), guarded(run.written):
            summary = failing(lambda: store_rest(run, spec))
        _show(summary, run, as_json)
        return
    guarded(lambda: check_resumable(run, old, spec, newest))
    with at_work(), make_progress("plain" if as_json else "auto") as progress:
        prepared = guarded(lambda: prepare(spec, reporter(progress)))
        with guarded(run.written):
            if stored is not None:
                guarded(lambda: catch_up(run, stored, checkpoints_of(run, spec)))
            state = resume(run, spec, dump_spec(spec))
        summary = failing(lambda: run_job(prepared, run, progress, started, state))
    _show(summary, run, as_json)


def _show(summary: dict[str, Any], run: RunDirectory, as_json: bool) -> None:
    """Print a job's result."""
    if as_json:
        print(json.dumps(summary))
        return
    console = Console()
    if run.evaluation_file.is_file():
        from orchestrator.cli.results import show_evaluation  # noqa: PLC0415

        show_evaluation(json.loads(run.evaluation_file.read_text(encoding="utf-8")), console)
    elif summary.get("final_accuracy") is not None:
        controls = [
            f"with {words} {summary[key]:.1%}, "
            for words, key in (("silence", "silence_accuracy"), ("other clips", "shuffled_accuracy"))
            if summary[key] is not None
        ]
        console.print(
            f"Accuracy on {summary['evaluation_questions']} held-out questions: "
            f"{summary['baseline_accuracy']:.1%} before, [bold]{summary['final_accuracy']:.1%}[/bold] after "
            f"{summary['steps']} steps; {''.join(controls)}by chance {summary['chance_accuracy']:.1%}."
        )
    console.print(f"Report: {run.report_file.resolve()}", highlight=False)


def _read(path: Path, seed: int | None) -> JobSpec:
    return resolve_paths(read_spec(path, {} if seed is None else {"seed": seed}), path.resolve().parent)
